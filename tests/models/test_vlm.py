"""The vision-language model: what may change its answers, what may not, and what it says to bad input."""

import copy
import errno
import inspect
import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer as Torchvisions

from vlmcourse import (
    PROMPT,
    Answer,
    Connector,
    ConvEncoder,
    LanguageModel,
    Tokenizer,
    VisionLanguageModel,
    VisionTransformer,
    load_vlm,
    next_token_loss,
    next_token_probabilities,
    save_vlm,
)
from vlmcourse.models import vlm
from vlmcourse.models.transformer import record_attention

TEXTS = [PROMPT, "What color is the star in <image> and <image>? Answer:", "a red star, a blue ring.", "left of"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def texts(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


def lively(model: nn.Module) -> nn.Module:
    """Give every weight a size that shows in the output; fresh ones are so small that a lost part would not show."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def small_language_model(words: int = 17, **options) -> LanguageModel:
    options = {"context_length": 23, "embed_dim": 12, "depth": 3, "num_heads": 2} | options
    return lively(LanguageModel(words, **options)).double()


def small_model(*, encoder: nn.Module | None = None, context_length: int = 47, **connector) -> VisionLanguageModel:
    """An untrained model whose images of 8 × 12 pixels become six tokens."""
    tokenizer = Tokenizer.from_texts(TEXTS)
    encoder = encoder or ConvEncoder(width=5, depths=(1, 1, 1))
    connector = Connector(**({"in_features": 20, "out_features": 12, "grid_size": (2, 3)} | connector))
    language_model = LanguageModel(len(tokenizer), context_length=context_length, embed_dim=12, depth=3, num_heads=2)
    return lively(VisionLanguageModel(encoder, connector, language_model, tokenizer)).double()


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, 3, 8, 12, dtype=torch.float64)


# ---- words -------------------------------------------------------------------------------------------------------


def test_placeholder_and_punctuation_are_words_of_their_own():
    tokenizer = Tokenizer.from_texts([PROMPT])
    words = [tokenizer.words[number] for number in tokenizer.encode(PROMPT)]
    assert words == ["What", "is", "in", "this", "image", "<image>", "?", "Answer", ":"]
    assert tokenizer.encode("image?<image>?").count(tokenizer.image_id) == 1


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_inverts_encoding(text):
    tokenizer = Tokenizer.from_texts(TEXTS)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_padding_and_end_leave_no_trace_in_the_text():
    tokenizer = Tokenizer.from_texts(TEXTS)
    ids = [tokenizer.pad_id, *tokenizer.encode("a red star"), tokenizer.end_id, tokenizer.pad_id]
    assert tokenizer.decode(ids) == "a red star"


def test_all_unknown_words_are_named_with_the_nearest_known():
    tokenizer = Tokenizer.from_texts(TEXTS)
    with pytest.raises(ValueError, match=r"does not know: 'banana', 'stars' \(near: star"):
        tokenizer.encode("a banana and two stars".replace("two ", ""))


def test_padding_cannot_be_written_into_a_text():
    with pytest.raises(ValueError, match=r"does not know: '<', 'pad' .*'>'"):
        Tokenizer.from_texts(TEXTS).encode("a <pad> star")


def test_tokenizer_survives_plain_dictionaries():
    tokenizer = Tokenizer.from_texts(TEXTS)
    again = Tokenizer(json.loads(json.dumps(tokenizer.words)))
    assert again.words == tokenizer.words
    assert again.encode(PROMPT) == tokenizer.encode(PROMPT)


# ---- the language model ------------------------------------------------------------------------------------------


def test_language_model_equals_pytorchs_causal_encoder():
    model = small_language_model(tie_output=False)
    layer = nn.TransformerEncoderLayer(12, 2, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(12), enable_nested_tensor=False).double().eval()
    names = {"self_attn.in_proj_": "attention.qkv_proj.", "self_attn.out_proj": "attention.out_proj",
             "norm1": "attention_norm", "norm2": "mlp_norm", "linear1": "mlp.in_proj", "linear2": "mlp.out_proj",
             "layers": "blocks"}  # fmt: skip
    state, ours = {}, model.state_dict()
    for name in theirs.state_dict():
        renamed = name
        for old, new in names.items():
            renamed = renamed.replace(old, new)
        state[name] = ours[renamed]
    theirs.load_state_dict(state)
    ids = torch.randint(17, (5, 11))
    x = F.embedding(ids, model.token_embedding) + model.position_embedding[:11]
    expected = model.head(theirs(x, mask=nn.Transformer.generate_square_subsequent_mask(11).double(), is_causal=True))
    torch.testing.assert_close(model(ids), expected)


@pytest.mark.parametrize("changed", [1, 5, 10])
def test_changing_a_later_token_changes_no_earlier_logits(changed):
    model, ids = small_language_model(), torch.randint(17, (3, 11))
    other = ids.clone()
    other[:, changed:] = (ids[:, changed:] + 1) % 17
    before, after = model(ids), model(other)
    torch.testing.assert_close(before[:, :changed], after[:, :changed])
    assert not torch.isclose(before[:, changed:], after[:, changed:]).all(-1).any()


def left_padded(rows: list[torch.Tensor], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.stack([F.pad(row, (length - len(row), 0)) for row in rows])
    return ids, torch.stack([torch.arange(length) >= length - len(row) for row in rows])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model, rows = small_language_model(), [torch.randint(17, (n,)) for n in (3, 11, 7)]
    ids, mask = left_padded(rows, 13)
    if side == "right":
        ids, mask = (torch.stack([r.roll(len(row) - 13) for r, row in zip(t, rows, strict=True)]) for t in (ids, mask))
    logits = model(ids, attention_mask=mask)
    assert logits.isfinite().all()
    for row, mark, out in zip(rows, mask, logits, strict=True):
        torch.testing.assert_close(out[mark], model(row[None])[0])


def test_even_padding_has_something_to_look_at():
    model, masks = small_language_model(), []
    model.blocks[0].register_forward_pre_hook(
        lambda _m, _args, options: masks.append(options["mask"]), with_kwargs=True
    )
    ids, mask = left_padded([torch.randint(17, (n,)) for n in (3, 11)], 13)
    cache = model.new_cache()
    for columns in (slice(0, 5), slice(5, 13)):
        model(ids[:, columns], attention_mask=mask[:, columns], cache=cache)
    assert all(mask.any(-1).all() for mask in masks)


def test_a_cache_of_another_batch_is_refused_and_left_as_it_was():
    model = small_language_model()
    cache = model.new_cache()
    model(torch.zeros(2, 3, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match="cache must be that of this batch of 5, received one of 2"):
        model(torch.zeros(5, 1, dtype=torch.int64), cache=cache)
    assert cache.attention_mask.shape == (2, 3)


@pytest.mark.parametrize("tie_output", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 13])
@torch.no_grad()
def test_cache_equals_no_cache_for_any_chunk_with_padding(chunk, tie_output):
    model = small_language_model(tie_output=tie_output)
    ids, mask = left_padded([torch.randint(17, (n,)) for n in (3, 13, 8, 11)], 13)
    whole, maps = _weights(model, ids, mask)
    cache, parts, part_maps = model.new_cache(), [], []
    for some, mark in zip(ids.split(chunk, dim=1), mask.split(chunk, dim=1), strict=True):
        kept = copy.deepcopy(cache)
        parts.append(model(some, attention_mask=mark, cache=cache))
        part_maps.append(F.pad(_weights(model, some, mark, cache=kept)[1], (0, 13 - cache.attention_mask.shape[1])))
    torch.testing.assert_close(torch.cat(parts, 1)[mask], whole[mask])
    torch.testing.assert_close(torch.cat(part_maps, 3).movedim(3, 1)[mask], maps.movedim(3, 1)[mask])


def _weights(model, ids, mask, **options):
    with record_attention(model) as maps:
        logits = model(ids, attention_mask=mask, **options)
    return logits, torch.stack(maps, dim=1)


def test_cache_computes_the_new_tokens_only():
    model, cache, widths = small_language_model(), None, []
    model.blocks[0].mlp.register_forward_hook(lambda _m, args, _out: widths.append(args[0].shape[1]))
    cache = model.new_cache()
    for n in (7, 1, 1, 3):
        model(torch.randint(17, (2, n)), cache=cache)
    assert widths == [7, 1, 1, 3]


def test_vectors_enter_as_words_do():
    model, ids = small_language_model(), torch.randint(17, (2, 5))
    torch.testing.assert_close(model(model.embed(ids)), model(ids))


def test_tied_output_shares_its_weights_with_the_input():
    tied, untied = small_language_model(), small_language_model(tie_output=False)
    count = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert count[1] - count[0] == 17 * 12
    ids = torch.randint(3, (2, 5))  # words 3 and up are never read, only scored
    before = tied(ids)
    with torch.no_grad():
        tied.token_embedding[11] += 1
    assert (tied(ids) != before).any(dim=0).any(dim=0).nonzero().flatten().tolist() == [11]


def test_loss_is_that_of_predicting_each_marked_token_from_those_before():
    logits, ids = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 3], mask[1, 1], mask[1, 4] = True, True, True
    expected = -sum(logits[b, n - 1].log_softmax(-1)[ids[b, n]] for b, n in ((0, 3), (1, 1), (1, 4))) / 3
    torch.testing.assert_close(next_token_loss(logits, ids, loss_mask=mask), expected)


# ---- drawing words -----------------------------------------------------------------------------------------------

CHANCES = torch.tensor([0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (0, 1.0, [1, 0, 0, 0]),
        (1.0, 1.0, [0.4, 0.3, 0.2, 0.1]),
        (0.5, 1.0, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),  # squares
        (1.0, 0.65, [4 / 7, 3 / 7, 0, 0]),
        (1.0, 0.75, [4 / 9, 3 / 9, 2 / 9, 0]),
        (1.0, 0.01, [1, 0, 0, 0]),
        (0.5, 0.6, [16 / 25, 9 / 25, 0, 0]),  # the temperature comes first
    ],
)
def test_the_distribution_of_the_next_word_is_the_one_asked_for(temperature, top_p, expected):
    order = torch.tensor([2, 0, 3, 1])
    chances = next_token_probabilities(CHANCES.log()[order], temperature=temperature, top_p=top_p)
    torch.testing.assert_close(chances, torch.tensor(expected, dtype=torch.float32)[order])


def test_top_p_keeps_one_of_two_equal_words_and_zero_temperature_the_first():
    assert next_token_probabilities(torch.zeros(2), temperature=1.0, top_p=0.5).tolist() == [1, 0]
    assert next_token_probabilities(torch.zeros(3), temperature=0).tolist() == [1, 0, 0]


class Oracle(LanguageModel):
    """Scores words by fixed chances, whatever it reads."""

    def forward(self, tokens, **_options):
        logits = torch.full((*tokens.shape[:2], len(self.token_embedding)), -math.inf, dtype=torch.float64)
        logits[..., 3:7] = CHANCES.log().double()
        return logits


def oracle() -> VisionLanguageModel:
    model = small_model()
    model.language_model = Oracle(len(model.tokenizer), context_length=47, embed_dim=12, depth=1, num_heads=2)
    return model


# ---- the whole model ---------------------------------------------------------------------------------------------

PROMPTS = [PROMPT, "What color is the star in <image>? Answer:", "What is <image> left of", "star <image>"]


def test_several_rows_at_once_answer_as_one_at_a_time():
    model, images = small_model(), pictures(4)
    together = model.generate(images, prompt=PROMPTS, max_new_tokens=9, return_attention=True)
    assert len(set(texts(together))) > 1
    for row, prompt in enumerate(PROMPTS):
        (alone,) = model.generate(images[row : row + 1], prompt=prompt, max_new_tokens=9, return_attention=True)
        one, other = together[row], alone
        assert (one.text, one.words, one.finished) == (other.text, other.words, other.finished)
        torch.testing.assert_close(together[row].probabilities, alone.probabilities)
        torch.testing.assert_close(together[row].attention, alone.attention)


@torch.no_grad()
def test_an_answer_is_what_reading_the_whole_text_again_predicts():
    """Greedy generation with its cache, against the plain forward pass on prompt and answer."""
    model, images = small_model(), pictures(4)
    answers = model.generate(images, prompt=PROMPTS, max_new_tokens=6)
    for row, answer in enumerate(answers):
        said = [model.tokenizer.words.index(word) for word in answer.words]
        ids = torch.tensor([model.tokenizer.encode(PROMPTS[row]) + said])
        logits = model(images[row : row + 1], ids)[0][0]
        start = len(logits) - len(said)
        predicted = logits[start - 1 : -1] if said else logits[:0]
        predicted[:, [model.tokenizer.pad_id, model.tokenizer.image_id]] = -math.inf  # these cannot be said
        assert predicted.argmax(-1).tolist() == said
        chances = predicted.softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]
        torch.testing.assert_close(answer.probabilities[: len(said)].double(), chances, atol=1e-6, rtol=1e-5)


def test_each_placeholder_becomes_the_vectors_of_its_own_image():
    """The whole forward pass, against embeddings put together by hand."""
    model, images = small_model(), pictures(2)
    ids = torch.tensor([model.tokenizer.encode(text) for text in ("a <image> red star", "a red <image> star")])
    words, (first, second) = model.language_model.embed(ids), model.connector(model.encoder.feature_map(images))
    by_hand = [torch.cat([words[0, :1], first, words[0, 2:]]), torch.cat([words[1, :2], second, words[1, 3:]])]
    torch.testing.assert_close(model(images, ids)[0], model.language_model(torch.stack(by_hand)))


def test_swapping_two_images_changes_the_answers_logits():
    model, images = small_model(), pictures(2)
    ids, is_answer = model.tokenize(["star <image>", "a <image>"], ["a star"] * 2)
    logits, loss = model(images, ids, is_answer)
    swapped, other_loss = model(images.flip(0), ids, is_answer)
    assert not torch.isclose(logits[:, -3:], swapped[:, -3:]).any()
    assert not torch.isclose(loss, other_loss)


def test_loss_counts_the_answers_and_their_end_and_nothing_else():
    model, images = small_model(), pictures(2)
    ids, is_answer = model.tokenize([PROMPT, "star <image>"], ["a red star", "left"])
    assert is_answer.sum(1).tolist() == [4, 2]
    assert (ids[is_answer] == model.tokenizer.end_id).sum() == 2
    logits, loss = model(images, ids, is_answer)
    expected = 0.0
    for row, said in enumerate([4, 2]):
        chances = logits[row, -said - 1 : -1].log_softmax(-1)
        expected -= chances.gather(1, ids[row, -said:, None]).sum()
    torch.testing.assert_close(loss.double(), expected / 6, rtol=1e-5, atol=0)


def test_autocast_changes_the_loss_by_rounding_alone():
    model, images = small_model().float(), pictures(3).float()
    ids, is_answer = model.tokenize([PROMPT, "star <image>", "<image>"], ["a red star"] * 3)
    _, loss = model(images, ids, is_answer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, rounded = model(images, ids, is_answer)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, loss, rtol=0.02, atol=0)
    rounded.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_rows_of_a_batch_lose_as_they_would_alone():
    model, images = small_model(), pictures(2)
    prompts, answers = [PROMPT, "star <image>"], ["a red star", "a blue ring"]  # four tokens each with the end
    _, together = model(images, *model.tokenize(prompts, answers))
    alone = [model(images[k : k + 1], *model.tokenize(prompts[k : k + 1], answers[k : k + 1]))[1] for k in range(2)]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_padding_that_makes_room_for_images_never_counts():
    model, images = small_model(), pictures(2)
    ids, _ = model.tokenize(["What is left of <image>", "a <image>"])
    _, together = model(images, ids, ids != model.tokenizer.pad_id)
    alone = [model(images[k : k + 1], row[None], row[None] >= 0)[1] for k, row in enumerate((ids[0], ids[1, -2:]))]
    torch.testing.assert_close(together, (9 * alone[0] + 6 * alone[1]) / 15)  # the first token is predicted by none


def test_text_alone_needs_no_image():
    model = small_model()
    assert len(model.generate(prompt=["What is left", "a red"], max_new_tokens=3)) == 2
    logits, _ = model(None, torch.tensor([model.tokenizer.encode("What is left")]))
    torch.testing.assert_close(logits, model.language_model(torch.tensor([model.tokenizer.encode("What is left")])))


class TokensOnly(nn.Module):
    def tokens(self, images):
        return images.flatten(2).transpose(1, 2)[:, ::16]


class MapWhenCalled(nn.Module):
    def forward(self, images):
        return images[:, :, ::4, ::4]


ENCODERS = [
    (lambda: ConvEncoder(width=5, depths=(1, 1, 1)), {}),
    (lambda: VisionTransformer(image_size=(8, 12), patch_size=4, embed_dim=20, depth=2, num_heads=2), {}),
    (TokensOnly, {"in_features": 3, "grid_size": (1, 6)}),
    (MapWhenCalled, {"in_features": 3}),
]


@pytest.mark.parametrize(("encoder", "connector"), ENCODERS)
def test_any_encoder_with_places_can_be_plugged_in(encoder, connector):
    model, images = small_model(encoder=encoder(), **connector), pictures(2)
    answers = model.generate(images, max_new_tokens=4, return_attention=True)
    assert answers[0].attention.shape[2:] == (1, *model.connector.grid_size)
    ids, is_answer = model.tokenize([PROMPT] * 2, ["a star", "a ring"])
    loss = model(images, ids, is_answer)[1]
    assert not torch.isclose(loss, model(images.flip(0), ids, is_answer)[1])


class Plugged(nn.Module):
    """A language model of one's own: it has what the docstring asks for, and nothing else."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.vocabulary_size, self.embed_dim, self.context_length = words, 12, 40
        self.table, self.out = nn.Embedding(words, 12), nn.Linear(12, words)

    def embed(self, ids):
        return self.table(ids)

    def new_cache(self):
        return {"sum": 0}

    def forward(self, tokens, *, attention_mask=None, cache=None):
        x = tokens if attention_mask is None else tokens * attention_mask[..., None]
        sums = x.cumsum(1) + (cache["sum"] if cache else 0)
        if cache is not None:
            cache["sum"] = sums[:, -1:]
        return self.out(sums)


def test_any_language_model_with_the_same_names_can_be_plugged_in():
    model, images = small_model(), pictures(3)
    model = VisionLanguageModel(model.encoder, model.connector, Plugged(23), model.tokenizer).double()
    together = model.generate(images, prompt=PROMPTS[:3], max_new_tokens=4)
    alone = [model.generate(images[k : k + 1], prompt=PROMPTS[k], max_new_tokens=4)[0] for k in range(3)]
    assert texts(together) == texts(alone)
    with pytest.raises(ValueError, match="must hold MultiHeadSelfAttention to be recorded, received Plugged"):
        model.generate(images, return_attention=True)
    assert model(images, *model.tokenize(PROMPTS[:3], ["a star"] * 3))[1] > 0


def test_an_encoder_that_gives_one_vector_is_refused():
    model = small_model(encoder=nn.Flatten())
    with pytest.raises(ValueError, match=r"features must have shape .* received \(2, 288\); .* for each place"):
        model.generate(pictures(2))
    model.encoder.forward = lambda images: (images, None)
    with pytest.raises(ValueError, match=r"features must have shape .* received tuple"):
        model.generate(pictures(2))


def test_connector_joins_neighbouring_vectors_row_by_row():
    connector = Connector(1, 4, grid_size=(4, 6), reduction=2)
    connector.norm, connector.mlp = nn.Identity(), nn.Identity()
    nn.init.zeros_(connector.position_embedding)
    numbers = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert connector(numbers)[0, [0, 1, 3]].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [12, 13, 18, 19]]
    assert connector(numbers.flatten(2).transpose(1, 2)).equal(connector(numbers))
    assert (connector.num_tokens, connector.grid_size) == (6, (2, 3))


@pytest.mark.parametrize("part", ["encoder", "connector", "language_model"])
def test_frozen_parts_get_no_gradient_and_the_others_all_do(part):
    model = small_model().train()
    getattr(model, part).requires_grad_(False)
    ids, is_answer = model.tokenize([PROMPT] * 3, ["a red star"] * 3)
    model(pictures(3), ids, is_answer)[1].backward()
    for name, parameter in model.named_parameters():
        got = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert got == (not name.startswith(part)), name


def test_attention_is_where_the_token_before_each_word_looked():
    """The cached maps, against α of one plain forward pass over prompt and answer."""
    model, images = small_model(), pictures(1)
    (answer,) = model.generate(images, prompt="a <image> red", max_new_tokens=5, return_attention=True)
    said = [model.tokenizer.words.index(word) for word in answer.words]
    ids, _, vectors = model._splice(images, torch.tensor([model.tokenizer.encode("a <image> red") + said]))
    _, maps = _weights(model.language_model, vectors, torch.ones_like(ids, dtype=torch.bool))
    start = ids.shape[1] - len(said)
    looks = maps[0].mean(1)[:, start - 1 : ids.shape[1] - 1]
    expected = looks[..., 1:7].reshape(3, len(said), 1, 2, 3)
    torch.testing.assert_close(answer.attention, expected)
    assert model.language_model.blocks[0].attention.backend == "fused"


def test_a_model_whose_weights_are_no_numbers_says_so_and_no_word():
    model = small_model()
    model.language_model.blocks[0].mlp.out_proj.weight.data[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="look for nan in its weights"):
        model.generate(pictures(1))


def test_what_follows_the_end_of_an_answer_may_be_no_numbers():
    model = small_model()
    words = torch.tensor([model.tokenizer.end_id, 5])

    class Ends(Oracle):
        """Row 0 says the end at once, and afterwards looks nowhere; some kernels then give nan."""

        def forward(self, tokens, *, attention_mask, **_options):
            logits = F.one_hot(words, len(self.token_embedding))[:, None].expand(-1, tokens.shape[1], -1).double()
            return logits.masked_fill(~attention_mask[:, -1:, None], math.nan)

    model.language_model = Ends(len(model.tokenizer), context_length=47, embed_dim=12, depth=1, num_heads=2)
    short, long = model.generate(prompt=["What is", "a star"], max_new_tokens=4)
    assert (short.finished, len(long.words)) == (True, 4)


def test_answering_leaves_every_parts_mode_as_it_was():
    model = small_model().train()
    model.encoder.eval()
    modes = [part.training for part in model.modules()]
    statistics = copy.deepcopy(model.encoder.state_dict())
    model.generate(pictures(3), max_new_tokens=2)
    assert [part.training for part in model.modules()] == modes
    assert all(value.equal(statistics[name]) for name, value in model.encoder.state_dict().items())


def test_an_answer_ends_at_the_end_token_and_the_others_go_on():
    model = small_model()
    answers = [model.generate(pictures(1), prompt=prompt, max_new_tokens=30)[0] for prompt in PROMPTS]
    assert all(len(answer.words) == 30 or answer.finished for answer in answers)
    words = torch.tensor([model.tokenizer.end_id, 5])

    class Ends(Oracle):
        """Row 0 says the end at once, row 1 never."""

        def forward(self, tokens, **_options):
            return F.one_hot(words, len(self.token_embedding))[:, None].expand(-1, tokens.shape[1], -1).double()

    model.language_model = Ends(len(model.tokenizer), context_length=47, embed_dim=12, depth=1, num_heads=2)
    short, long = model.generate(prompt=["What is", "a star"], max_new_tokens=4)
    assert (str(short), short.finished, len(short.probabilities)) == ("", True, 1)
    assert (long.words, long.finished, len(long.probabilities)) == ((model.tokenizer.words[5],) * 4, False, 4)


def test_an_answer_stops_where_the_context_is_full():
    model = small_model()
    model.tokenizer.end_id = -1  # nothing ends an answer
    answers = model.generate(prompt=["a star", " ".join(["star"] * 44)], max_new_tokens=9)
    assert [len(answer.words) for answer in answers] == [9, 3]
    assert not answers[1].finished


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_no_numbers_are_refused(wrong):
    images = pictures(3)
    images[1, 2, 3, 4] = wrong
    with pytest.raises(ValueError, match="images must hold finite numbers"):
        small_model().generate(images)


@pytest.mark.parametrize("scale", [lambda x: 255 * x, lambda x: (x - 0.45) / 0.22])
def test_pixels_of_another_range_are_answered_with_a_warning(scale):
    model = small_model()
    with pytest.warns(UserWarning, match=r"images should lie in \[0, 1\], received from .* try images / 255"):
        model.generate(scale(pictures(2)), max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(pictures(2), max_new_tokens=1)


def test_an_answer_is_its_text_and_cannot_be_changed():
    (answer,) = small_model().generate(pictures(1), max_new_tokens=3)
    assert str(answer) == f"{answer}" == answer.text
    with pytest.raises(AttributeError):
        answer.text = "another"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate(pictures(1), prompt="<image> and <image>"), ValueError,
         r"prompt 0 has 2 of the placeholder <image>, one per image, received 1"),
        (lambda m: m.generate(pictures(2), prompt=["a <image>", "a star"]), ValueError,
         r"prompt 1 has 0 of the placeholder <image>, one per image, received 1"),
        (lambda m: m.generate(prompt=PROMPT), ValueError, r"has 1 of the placeholder <image>, .* received 0"),
        (lambda m: m.generate(pictures(2), prompt=[PROMPT]), ValueError,
         r"images must come for each of the 1 prompts, received 2"),
        (lambda m: m.generate(pictures(1), prompt=""), ValueError, r"prompt 0 must hold at least one word"),
        (lambda m: m.generate(pictures(1), prompt="Is it a banana <image>?"), ValueError,
         r"does not know: 'Is' .near: is.*, 'it'.*, 'banana'"),
        (lambda m: m.generate(prompt=" ".join(["star"] * 47)), ValueError,
         r"prompt 0 takes 47 tokens, images included, and leaves no room .* context_length=47"),
        (lambda m: m.generate(prompt=" ".join(["star"] * 60)), ValueError, r"prompt 0 takes 60 tokens"),
        (lambda m: m(None, torch.zeros(1, 48, dtype=torch.int64) + 3), ValueError,
         r"tokens must fit into context_length=47, received 48"),
        (lambda m: m.generate(pictures()), ValueError, r"images must have shape \(b c h w\), received \(3, 8, 12\)"),
        (lambda m: m.generate([pictures()]), TypeError, r"images must be a torch.Tensor .*, received list"),
        (lambda m: m.generate((pictures(1) * 255).byte()), TypeError, r"images must be floating point"),
        (lambda m: m.generate(torch.rand(1, 3, 16, 16).double()), ValueError,
         r"features must have shape \(b, 20, 2, 3\) or \(b, 6, 20\), received \(1, 20, 4, 4\)"),
        (lambda m: next_token_probabilities(CHANCES, temperature=-1), ValueError, r"temperature must be a finite"),
        (lambda m: next_token_probabilities(CHANCES, temperature=1, top_p=1.1), ValueError, r"lie between 0 and 1"),
        (lambda m: m.generate(pictures(1), max_new_tokens=0), ValueError, r"max_new_tokens must be at least 1"),
        (lambda m: m.tokenize(PROMPT), TypeError, r"prompts and answers must be several strings"),
        (lambda m: m.tokenize([PROMPT], ["a", "red"]), ValueError, r"received 1 prompts and 2 answers"),
        (lambda m: m.language_model(torch.tensor([[99]])), ValueError, r"ids must be from 0 to 22, received 99 to 99"),
        (lambda m: m.tokenizer.decode([99]), ValueError, r"ids must be from 0 to 22"),
        (lambda m: m.tokenizer.encode(None), TypeError, r"must be str, not None"),
        (lambda m: Tokenizer.from_texts("a star"), TypeError, r"texts must be several strings"),
        (lambda m: Connector(5, 7, grid_size=(4, 6), reduction=4), ValueError, r"reduction=4 does not divide width 6"),
        (lambda m: m.connector(torch.rand(2, 7, 20)), ValueError, r"received \(2, 7, 20\); .* a class token"),
        (lambda m: LanguageModel(7, embed_dim=10, num_heads=4), ValueError, r"num_heads=4 does not divide"),
        (lambda m: VisionLanguageModel(m.encoder, Connector(20, 10, grid_size=3), m.language_model, m.tokenizer),
         ValueError, r"connector must have the language model's width, out_features=12, received 10"),
        (lambda m: VisionLanguageModel(m.encoder, m.connector, m.language_model, Tokenizer(["a"])),
         ValueError, r"tokenizer must have the language model's 23 words, received 4"),
        (lambda m: next_token_loss(torch.rand(1, 2, 3), torch.zeros(1, 2).long(), loss_mask=torch.zeros(1, 2).bool()),
         ValueError, r"loss_mask must mark at least one token"),
        (lambda m: m.language_model(torch.tensor([[3, 4]]), attention_mask=torch.ones(1, 2)), ValueError,
         r"attention_mask must be boolean of shape \(1, 2\), received torch.float32"),
        (lambda m: Tokenizer(["a", 3]), TypeError, r"words must be strings"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(small_model())


# ---- one file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoder", "connector"), ENCODERS[:2])
def test_a_saved_model_answers_the_same(tmp_path, encoder, connector):
    model, images = small_model(encoder=encoder(), **connector).float(), pictures(2).float()
    model.train()
    model.encoder(images)  # moves the statistics of BatchNorm, which must be in the file too
    save_vlm(model, tmp_path / "model.safetensors", provenance={"seed": 7, "scores": [0.5]})
    state = torch.get_rng_state()
    again, provenance = load_vlm(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert provenance == {"seed": 7, "scores": [0.5]}
    assert not again.training
    answers, expected = (m.generate(images, prompt=PROMPTS[:2], max_new_tokens=6) for m in (again, model))
    assert texts(answers) == texts(expected)
    for answer, other in zip(answers, expected, strict=True):
        assert answer.probabilities.equal(other.probabilities)


# Every option of every part, each away from its default.
OPTIONS = {
    ConvEncoder: {"in_channels": 2, "width": 5, "depths": (2, 1, 3), "strides": (1, 2, 1, 2), "pool_size": 3},
    VisionTransformer: {
        "image_size": (8, 12), "patch_size": (4, 3), "num_classes": 7, "in_channels": 2, "embed_dim": 20, "depth": 2,
        "num_heads": 2, "mlp_ratio": 1.3, "pool": "mean", "positions": False, "residual": False, "norm": False,
        "norm_eps": 0.1,
    },
    LanguageModel: {
        "vocabulary_size": 11, "context_length": 9, "embed_dim": 12, "depth": 3, "num_heads": 8, "mlp_ratio": 1.7,
        "tie_output": False,
    },
    Connector: {"in_features": 5, "out_features": 7, "grid_size": (4, 6), "reduction": 2, "hidden_features": 13},
}  # fmt: skip
REQUIRED = {"image_size", "patch_size", "vocabulary_size", "in_features", "out_features", "grid_size"}
SINGLE = [(part, {name: value}) for part, options in OPTIONS.items() for name, value in options.items()]
INPUTS = {
    ConvEncoder: lambda config: torch.rand(2, config["in_channels"], 8, 12),
    VisionTransformer: lambda config: torch.rand(2, config["in_channels"], 8, 12),
    LanguageModel: lambda config: torch.randint(config["vocabulary_size"], (2, 5)),
    Connector: lambda config: torch.rand(2, config["in_features"], 4, 6),
}


@pytest.mark.parametrize(("part", "option"), SINGLE, ids=[f"{part.__name__}-{next(iter(o))}" for part, o in SINGLE])
def test_every_option_of_every_part_is_in_its_configuration_and_survives(part, option):
    """Built with one option away from its default, and again from its JSON: the same outputs from the same weights."""
    needed = {name: value for name, value in OPTIONS[part].items() if name in REQUIRED}
    module = lively(part(**needed | option))
    config = json.loads(json.dumps(module.config))
    assert set(config) == set(inspect.signature(part).parameters)
    again = part(**config).eval()
    again.load_state_dict(module.state_dict())
    inputs = INPUTS[part](config)
    assert torch.equal(again(inputs), module(inputs))
    assert json.loads(json.dumps(again.config)) == config
    (name,) = option
    assert name in REQUIRED or config[name] != json.loads(json.dumps(part(**needed).config))[name]


def test_the_options_above_are_all_there_are():
    for part, options in OPTIONS.items():
        assert set(options) == set(inspect.signature(part).parameters)


def test_torchvisions_epsilon_survives_a_file(tmp_path):
    theirs = Torchvisions(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=20, mlp_dim=30,
        norm_layer=lambda width: nn.LayerNorm(width, eps=0.1),
    )  # fmt: skip
    encoder = VisionTransformer.from_torchvision(theirs)
    images = torch.rand(2, 3, 8, 8)
    assert VisionTransformer(**encoder.config).config == encoder.config
    model = small_model(encoder=encoder, grid_size=(2, 2)).float()
    save_vlm(model, tmp_path / "model.safetensors")
    again, _ = load_vlm(tmp_path / "model.safetensors")
    assert torch.equal(again.encoder(images), model.encoder(images))
    assert again.encoder.norm.eps == again.encoder.blocks[0].mlp_norm.eps == 0.1


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_vlm(small_model(), path, provenance={"first": True})

    def broken(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        save_vlm(small_model(), path, provenance={"first": False})
    assert load_vlm(path)[1] == {"first": True}
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def _another_model(path):
    save_file({"weight": torch.rand(3)}, path)


def _cut_short(path):
    save_vlm(small_model(), path)
    path.write_bytes(path.read_bytes()[:-100])


def _a_pickle(path):
    torch.save({"weight": torch.rand(3)}, path)


def _a_tensor_missing(path):
    save_vlm(small_model(), path)
    with vlm.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    del state["connector.norm.weight"]
    save_file(state, path, metadata)


def _an_unknown_encoder(path):
    save_vlm(small_model(), path)
    with vlm.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, "form": metadata["form"].replace("ConvEncoder", "os.system")})


def _respoken(path, change) -> None:
    """Rewrite the metadata of a good file."""
    save_vlm(small_model(), path)
    with vlm.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    form = json.loads(metadata["form"])
    metadata |= change(form) or {}
    save_file(load_file(path), path, {**metadata, "form": json.dumps(form)})


@pytest.mark.parametrize(
    "spoil",
    [
        _another_model, _cut_short, _a_pickle, _a_tensor_missing, _an_unknown_encoder, Path.touch,
        lambda path: _respoken(path, lambda form: {"format": "vlmcourse.vlm.2"}),
        lambda path: _respoken(path, lambda form: {"provenance": "3"}),
        lambda path: _respoken(path, lambda form: {"provenance": "{"}),
        lambda path: _respoken(path, lambda form: form["tokenizer"].update(words=[*range(20)])),
        lambda path: _respoken(path, lambda form: form.update(connector=[])),
        lambda path: _respoken(path, lambda form: form["language_model"].update(mlp_ratio=math.inf)),
        lambda path: _respoken(path, lambda form: form["language_model"].update(another=3)),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(tmp_path, spoil):
    path = tmp_path / "model.safetensors"
    spoil(path)
    with pytest.raises(ValueError, match=r"model.safetensors is not a whole file of save_vlm \(.+\)"):
        load_vlm(path)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, -1, 48, 10**6, 10**9, 10**18, 10**30])
def test_sizes_that_do_not_fit_the_tensors_are_refused_before_anything_is_allocated(tmp_path, size, monkeypatch):
    """Each number of each part in turn; what is built meanwhile has no memory, and there is little of it."""
    path, good, build = tmp_path / "model.safetensors", small_model(), vlm._build
    parts = ("encoder", "connector", "language_model")
    numbers = {(p, k) for p in parts for k, value in getattr(good, p).config.items() if type(value) is int}
    free = {("language_model", "num_heads"), ("encoder", "pool_size")}  # no tensor depends on them
    assert len(numbers) == 11

    devices = []

    def noted(form):
        devices.append(torch.empty(0).device.type)
        return build(form)

    monkeypatch.setattr(vlm, "_build", noted)
    changes = [{part: {name: size}} for part, name in sorted(numbers - free)]
    changes += [{"encoder": {"depths": depths}} for depths in ([1, size, 1], [1, 1, 1, size], [size] * 3)]
    changes += [{"connector": {"grid_size": grid}} for grid in ([size, size], [2, size], size)]
    changes += [{"language_model": {"num_heads": 7, "embed_dim": size}}]
    for change in changes:
        _respoken(path, lambda form, change=change: [form[part].update(new) for part, new in change.items()] and None)
        with pytest.raises(ValueError, match="is not a whole file of save_vlm"):
            load_vlm(path)
    assert set(devices) == {"meta"}


def test_a_folder_is_named_as_one_and_the_home_folder_is_found(tmp_path, monkeypatch):
    with pytest.raises(IsADirectoryError, match="is not a file; name the one that save_vlm wrote"):
        load_vlm(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    save_vlm(small_model(), "~/model.safetensors")
    load_vlm("~/model.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_cannot_be_rebuilt_is_not_saved(tmp_path):
    model = small_model(encoder=MapWhenCalled(), in_features=3)
    with pytest.raises(TypeError, match=r"a ConvEncoder or VisionTransformer .* received MapWhenCalled; .* torch.save"):
        save_vlm(model, tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match=r"language_model must be a LanguageModel .* received Oracle"):
        save_vlm(oracle(), tmp_path / "model.safetensors")
    model = VisionLanguageModel(ConvEncoder(width=5), Connector(20, 12, grid_size=(2, 3)), Plugged(23), model.tokenizer)
    with pytest.raises(TypeError, match=r"language_model must be a LanguageModel .* received Plugged"):
        save_vlm(model, tmp_path / "model.safetensors")
    model = small_model()
    with pytest.raises(TypeError, match="JSON serializable"):
        save_vlm(model, tmp_path / "model.safetensors", provenance={"tensor": torch.rand(2)})
    assert list(tmp_path.iterdir()) == []


def test_answers_are_the_same_on_every_device(device):
    model, images = small_model(), pictures(4)
    expected = model.generate(images, prompt=PROMPTS, max_new_tokens=6)
    answers = model.to(device).generate(images.to(device), prompt=PROMPTS, max_new_tokens=6)
    assert texts(answers) == texts(expected)
    ids, is_answer = model.tokenize(PROMPTS, ["a star"] * 4)
    model(images.to(device), ids, is_answer)[1].backward()


def test_an_error_within_a_block_leaves_the_cache_of_all_as_it_was(monkeypatch):
    model, tokens = small_language_model(), torch.tensor([[3, 4, 5, 6]])
    cache = model.new_cache()
    model(tokens[:, :2], cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[1], "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(tokens[:, 2:], cache=cache)
    torch.testing.assert_close(model(tokens[:, 2:], cache=cache), model(tokens)[:, 2:])


def test_a_model_with_a_part_put_in_is_not_saved_in_a_form_that_cannot_be_read(tmp_path):
    model = small_model()
    model.language_model.norm = nn.Identity()
    with pytest.raises(ValueError, match=r"layers it was built with.*language_model\.norm\.weight"):
        save_vlm(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
    model = small_model(encoder=VisionTransformer(image_size=(8, 12), patch_size=4, embed_dim=20, num_heads=2))
    model.encoder.blocks[0].mlp.activation = nn.ReLU()
    with pytest.raises(ValueError, match=r"layers it was built with.*encoder\.blocks\.0\.mlp\.activation"):
        save_vlm(model, tmp_path / "model.safetensors")


class Lowered(Tokenizer):
    def encode(self, text):
        return super().encode(text.lower())


class Renamed(VisionLanguageModel):
    pass


def test_a_model_or_a_tokenizer_of_one_s_own_class_is_not_saved_as_another(tmp_path):
    model = small_model()
    parts = model.encoder, model.connector, model.language_model
    for own, name in (
        (VisionLanguageModel(*parts, Lowered(model.tokenizer.words)), "tokenizer must be a Tokenizer"),
        (Renamed(*parts, model.tokenizer), "model must be a VisionLanguageModel"),
    ):
        with pytest.raises(TypeError, match=name):
            save_vlm(own, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_model_comes_back_in_the_dtype_it_was_saved_in(tmp_path, dtype):
    save_vlm(small_model().to(dtype), tmp_path / "model.safetensors")
    torch.set_default_dtype(torch.float64)
    try:
        model = load_vlm(tmp_path / "model.safetensors")[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_settings_list_may_change_after_a_network_was_built_and_a_size_may_be_numpys(tmp_path):
    depths = [1, 1, 1]
    model = small_model(encoder=ConvEncoder(width=np.int64(5), depths=depths))
    depths.append(1)
    save_vlm(model, tmp_path / "model.safetensors")
    assert load_vlm(tmp_path / "model.safetensors")[0].encoder.config["depths"] == (1, 1, 1)


def test_a_word_that_can_never_be_encoded_is_refused():
    for word, message in (("ice cream", "'ice cream', cut into"), ("<sep>", "'<sep>', cut into")):
        with pytest.raises(ValueError, match=message):
            Tokenizer(["a", word])
    tokenizer = Tokenizer(["cafe\u0301", "it’s", "it's", "."])
    assert tokenizer.decode(tokenizer.encode("cafe\u0301 it’s it's.")) == "caf\u00e9 it’s it's."
    assert Tokenizer(tokenizer.words).words == tokenizer.words


def test_a_language_model_can_be_exported():
    model, ids = small_language_model(), torch.tensor([[3, 4, 5, 6]])
    exported = torch.export.export(model, (ids,)).module()
    torch.testing.assert_close(exported(ids), model(ids))


def test_an_accent_that_follows_its_letter_is_part_of_the_word():
    tokenizer = Tokenizer.from_texts(["caf\u00e9"])
    assert tokenizer.decode(tokenizer.encode("cafe\u0301")) == "caf\u00e9"
