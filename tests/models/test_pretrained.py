"""The road through transformers: a tiny network with random weights, built on the spot, and nothing downloaded."""

import builtins
import socket

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason='needs the library transformers: pip install "vlmcourse[pretrained]"'
)

from tokenizers import Regex  # noqa: E402
from tokenizers import Tokenizer as FastTokenizer  # noqa: E402  comes with transformers
from tokenizers.models import WordLevel  # noqa: E402
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit  # noqa: E402

from vlmcourse.models.pretrained import PretrainedVLM  # noqa: E402
from vlmcourse.models.vlm import PROMPT  # noqa: E402

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<fake_token_around_image>", "<end_of_utterance>"]
SPECIAL += ["<global-img>", *[f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]]
WORDS = ["What", "is", "in", "this", "image", "Answer", ":", "?", "and", "a", "red", "star", "User", "Assistant"]
CHAT = (
    "{% for m in messages %}User: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} Assistant:{% endif %}"
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refused(*_arguments, **_options):
        raise AssertionError("this test must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    torch.manual_seed(0)


def tokenizer():
    fast = FastTokenizer(WordLevel({word: k for k, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    fast.pre_tokenizer = Sequence([WhitespaceSplit(), Split(Regex(r"[?:]"), "isolated")])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=SPECIAL[4:],
    )  # fmt: skip


TEXT = {
    "vocab_size": len(SPECIAL + WORDS), "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip


def tiny_llava(chat_template=None) -> PretrainedVLM:
    """LLaVA: a CLIP encoder, an MLP, a Llama; here each of a few thousand parameters."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, projection_dim=12),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=16,
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        tokenizer=tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
    return PretrainedVLM(transformers.LlavaForConditionalGeneration(config), processor)


def tiny_idefics3() -> PretrainedVLM:
    """The architecture of SmolVLM: a SigLIP encoder, pixel shuffle, a Llama."""
    config = transformers.Idefics3Config(
        vision_config=VISION,
        text_config=transformers.LlamaConfig(**TEXT),
        scale_factor=2,
        image_token_id=SPECIAL.index("<image>"),
        pad_token_id=0,
    )
    image_processor = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    processor = transformers.Idefics3Processor(image_processor, tokenizer(), image_seq_len=4, chat_template=CHAT)
    return PretrainedVLM(transformers.Idefics3ForConditionalGeneration(config), processor)


MODELS = pytest.mark.parametrize("build", [tiny_llava, lambda: tiny_llava(CHAT), tiny_idefics3])


@MODELS
def test_images_and_a_prompt_give_one_answer_each(build):
    answers = build().generate(torch.rand(3, 3, 24, 20), prompt=PROMPT, max_new_tokens=5)
    assert len(answers) == 3
    for answer in answers:
        assert isinstance(answer, str)
        assert len(answer.words) == 5 or answer.finished
        assert ((answer.probabilities > 0) & (answer.probabilities <= 1)).all()


@MODELS
def test_the_image_reaches_the_model(build):
    model, images = build(), torch.rand(2, 3, 24, 20)
    first, second = model.generate(images, max_new_tokens=3)
    assert not torch.equal(first.probabilities, second.probabilities)
    again, _ = model.generate(images, max_new_tokens=3)
    assert torch.equal(first.probabilities, again.probabilities)


@MODELS
def test_different_prompts_at_once_answer_as_one_at_a_time(build):
    model, images = build(), torch.rand(2, 3, 24, 20)
    prompts = [PROMPT, "What is a red star and a star <image>? Answer:"]
    together = model.generate(images, prompt=prompts, max_new_tokens=4)
    for row, prompt in enumerate(prompts):
        (alone,) = model.generate(images[row : row + 1], prompt=prompt, max_new_tokens=4)
        assert alone == together[row]
        torch.testing.assert_close(alone.probabilities, together[row].probabilities, atol=1e-5, rtol=1e-4)


@MODELS
def test_several_images_a_prompt_keep_their_order(build):
    model, (a, b, c) = build(), torch.rand(3, 3, 16, 16)
    pairs = torch.stack([torch.stack(pair) for pair in ((a, b), (b, a), (a, c), (c, b))])
    answers = model.generate(pairs, prompt="a <image> and <image>?", max_new_tokens=3)
    for other in answers[1:]:  # swapped, another second, another first
        assert not torch.allclose(answers[0].probabilities, other.probabilities)


def test_text_alone_needs_no_image():
    assert len(tiny_llava().generate(prompt=["What is a star?", "a red"], max_new_tokens=2)) == 2


def test_draws_follow_the_seed_and_leave_the_global_state_alone():
    model, images, state = tiny_llava(), torch.rand(4, 3, 16, 16), torch.get_rng_state()
    first, same, other = (model.generate(images, temperature=1.0, seed=seed, max_new_tokens=8) for seed in (5, 5, 7))
    assert first == same != other
    assert torch.equal(torch.get_rng_state(), state)


def test_the_end_token_ends_an_answer_and_is_not_part_of_it():
    model, images = tiny_llava(), torch.rand(1, 3, 16, 16)
    (long,) = model.generate(images, max_new_tokens=6)
    second = model.processor.tokenizer.convert_tokens_to_ids(long.words[1])
    stop = list(long.words).index(long.words[1])
    model.model.generation_config.eos_token_id = second
    (short,) = model.generate(images, max_new_tokens=6)
    assert not long.finished
    assert short.finished
    assert short.words == long.words[:stop]
    torch.testing.assert_close(short.probabilities, long.probabilities[: stop + 1])


def test_a_conversation_model_gets_the_prompt_inside_its_template():
    assert tiny_llava(CHAT)._written(PROMPT) == "User: What is in this image<image>? Answer: Assistant:"
    assert tiny_llava()._written(PROMPT) == PROMPT


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate(torch.rand(1, 3, 16, 16), prompt="a star"), ValueError,
         r"prompt 0 has 0 <image> placeholders, received 1 images"),
        (lambda m: m.generate(prompt=PROMPT), ValueError, r"prompt 0 has 1 <image> placeholders, received 0 images"),
        (lambda m: m.generate(torch.rand(2, 3, 16, 16), prompt=[PROMPT]), ValueError,
         r"images must come for each of the 1 prompts, received 2"),
        (lambda m: m.generate(torch.rand(2, 1, 16, 16)), ValueError, r"images must have three channels"),
        (lambda m: m.generate(torch.rand(3, 16, 16)), ValueError, r"images must have shape .* received \(3, 16, 16\)"),
        (lambda m: m.generate(2 * torch.ones(1, 3, 16, 16)), ValueError, r"images must lie in \[0, 1\]"),
        (lambda m: m.generate(torch.ones(1, 3, 16, 16).byte()), TypeError, r"images must be floating point"),
        (lambda m: m.generate(prompt=" "), ValueError, r"prompt 0 must hold at least one word"),
        (lambda m: m.generate(prompt="a", temperature=-1), ValueError, r"temperature must be"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(tiny_llava())


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    real_import = builtins.__import__

    def without_transformers(name, *arguments, **options):
        if name.partition(".")[0] == "transformers":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_transformers)
    with pytest.raises(ImportError, match=r'pip install "vlmcourse\[pretrained\]"'):
        PretrainedVLM.from_pretrained()


def test_a_saved_model_is_found_again_without_the_network(tmp_path):
    model, images = tiny_llava(), torch.rand(1, 3, 16, 16)
    model.model.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    again = PretrainedVLM.from_pretrained(str(tmp_path), local_files_only=True)
    assert again.generate(images, max_new_tokens=4) == model.generate(images, max_new_tokens=4)
