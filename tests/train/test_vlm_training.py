"""Stages move what they say and nothing else; scores and controls tell a model that looks from one that recites."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from vlmcourse.course.figures import plots
from vlmcourse.data.questions import questions
from vlmcourse.train import vlm
from vlmcourse.train.runtime import seed_everything

QUIET = {"steps": 2, "batch_size": 8, "device": "cpu", "progress": False, "autocast": False}
PARTS = {"encoder", "connector", "language_model"}


def small_model():
    seed_everything(0)
    return vlm.build_vlm(image_size=16, embed_dim=8, depth=1, num_heads=2)


def described(n=24, *, seed=0, **options):
    return questions(n, seed=seed, kinds="describe", image_size=16, phrasings=1, **options)


# --- the world -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partners", [1, 2, 5])
def test_every_colour_has_its_partners_and_every_shape_as_many_and_none_is_held_out(partners):
    pairs = vlm.pairings(partners)
    assert len(set(pairs)) == 6 * partners
    for place, names in ((0, vlm.COLORS), (1, vlm.SHAPES)):
        assert [sum(pair[place] == name for pair in pairs) for name in names] == [partners] * 6
    assert not set(pairs) & set(vlm.held_out())
    assert {color for color, _ in vlm.held_out()} == set(vlm.COLORS)
    assert {shape for _, shape in vlm.held_out()} == set(vlm.SHAPES)


def test_a_wider_world_holds_all_of_a_narrower_one():
    assert set(vlm.pairings(2)) < set(vlm.pairings(5))


def test_a_world_without_anything_held_out_is_refused():
    with pytest.raises(ValueError, match="partners must be below the number of shapes"):
        vlm.pairings(6)


# --- stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "freeze", "moving"),
    [
        ("language model", (), {"language_model"}),
        ("connector", (), {"connector"}),
        ("joint", (), PARTS),
        ("joint", ("encoder",), {"connector", "language_model"}),
    ],
)
def test_a_stage_moves_its_parts_and_not_one_bit_of_the_others(stage, freeze, moving):
    model = small_model()
    before = vlm.copy_weights(model)
    vlm.train_stage(model, described(), stage, freeze=freeze, **QUIET)
    moved = vlm.movement(model, before)
    assert {part for part, change in moved.items() if change > 0} == moving
    assert set(moved) == PARTS


def test_after_a_stage_every_part_may_learn_again():
    model = small_model()
    vlm.train_stage(model, described(), "connector", **QUIET)
    assert all(p.requires_grad for p in model.parameters())


def test_a_copy_of_the_weights_is_on_the_cpu_and_shares_nothing():
    model = small_model()
    copies, own = vlm.copy_weights(model), model.state_dict()
    assert {copy.device.type for copy in copies.values()} == {"cpu"}
    assert not {copy.data_ptr() for copy in copies.values()} & {tensor.data_ptr() for tensor in own.values()}


def test_movement_notices_the_running_statistics_of_a_norm():
    model = small_model()
    before = vlm.copy_weights(model)
    model.encoder.train()(torch.rand(4, 3, 16, 16))  # no step, no gradient: only BatchNorm's statistics change
    assert vlm.movement(model, before)["encoder"] > 0


def test_the_language_stage_never_sees_an_image():
    asked = described()
    torn = dataclasses.replace(asked, images=torch.full_like(asked.images, torch.nan))
    one, other = small_model(), small_model()
    histories = [vlm.train_stage(m, a, "language model", **QUIET)["loss"] for m, a in ((one, asked), (other, torn))]
    assert histories[0].tolist() == histories[1].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": "vision"}, r"stage must be one of language model, connector, joint, received 'vision'"),
        ({"stage": "joint", "freeze": ("decoder",)}, r"freeze has unknown 'decoder'"),
        ({"stage": "connector", "freeze": ("connector",)}, r"freeze=.* leaves nothing to train in stage 'connector'"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        vlm.train_stage(small_model(), described(), **arguments, **QUIET)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_the_truth_scores_one_everywhere():
    asked = described(num_objects=[1, 2])
    assert vlm.score(asked.answers, asked) == dict.fromkeys(vlm.METRICS, 1.0)


@pytest.mark.parametrize(
    ("true", "said", "wrong"),
    [
        ("a small red star on the left", "a small red heart on the left", {"shape"}),
        ("a small red star on the left", "a small blue star on the left", {"color"}),
        ("a small red star on the left", "a large red star on the right", {"size", "place"}),
        ("a small red star on the left", "a red star on the left", {"size"}),
        ("a small red star on the left", "a small red red star on the left", {"color"}),
        ("a small red star left of a large blue heart", "a small blue star left of a large red heart", {"color"}),
        ("a small red star left of a large blue heart", "a small red star right of a large blue heart", {"place"}),
        ("a small red star on the left", "", {"color", "size", "shape", "place"}),
    ],
)
def test_a_wrong_word_costs_its_own_attribute_and_the_exact_match(true, said, wrong):
    asked = dataclasses.replace(described(1), answers=(true,))
    scores = vlm.score([said], asked)
    assert {metric for metric, value in scores.items() if value == 0.0} == wrong | {"exact"}


def test_an_attribute_that_the_truth_does_not_name_is_not_judged():
    asked = dataclasses.replace(described(1), answers=("a star on the left",))
    assert set(vlm.score(["a red star on the left"], asked)) == {"exact", "shape", "place"}


def test_confusion_counts_every_answer_once_and_puts_strange_ones_aside():
    asked = described(30, colors=vlm.COLORS, shapes=vlm.SHAPES)
    said = [answer.replace("circle", "heart").replace("star", "thing") for answer in asked.answers]
    table = vlm.confusion(said, asked)
    shapes = [objects[0].shape for objects in asked.objects]
    assert table.to_numpy().sum() == 30
    assert table.loc["circle", "heart"] == shapes.count("circle") > 0
    assert table.loc["star", "other"] == shapes.count("star") > 0
    assert table.loc["cross", "cross"] == shapes.count("cross") > 0


# --- controls --------------------------------------------------------------------------------------------------------


def test_a_blank_image_leaves_one_answer_for_each_prompt_and_text_alone_as_well():
    model, asked = small_model(), described()
    for control in ("blank", "text only"):
        assert len(set(vlm.answers(model, asked, control=control))) == 1
    assert vlm.answers(model, asked, control="text only") == vlm.answers(
        model, dataclasses.replace(asked, images=asked.images * torch.nan), control="text only"
    )


def test_shuffled_images_give_each_question_the_answer_of_another():
    seed_everything(0)
    model, asked = small_model(), described()
    torch.nn.init.normal_(model.connector.mlp.out_proj.weight, std=2.0)  # so that the answer depends on the image
    real, shuffled = (vlm.answers(model, asked, control=control) for control in ("real image", "shuffled"))
    assert len(set(real)) > 1
    assert shuffled == [real[-1], *real[:-1]]


def test_a_lone_question_cannot_be_asked_of_another_ones_image():
    with pytest.raises(ValueError, match="asked must hold two questions or more to be shuffled, received 1"):
        vlm.answers(small_model(), described(1), control="shuffled")


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="control must be one of real image, blank, shuffled, text only"):
        vlm.answers(small_model(), described(), control="noise")


def test_evaluate_has_a_row_for_each_control_and_its_numbers_are_those_of_score():
    model, asked = small_model(), described()
    table = vlm.evaluate(model, {"seen": asked})
    assert list(table.index) == [("seen", control) for control in vlm.CONTROLS]
    assert table.loc[("seen", "blank")].to_dict() == vlm.score(vlm.answers(model, asked, control="blank"), asked)


def test_the_question_as_text_alone_has_no_placeholder_and_only_known_words():
    tokenizer = small_model().tokenizer
    asked = questions(200, seed=0, image_size=16, num_objects=[1, 2], phrasings=3)
    texts = {vlm.without_image(prompt) for prompt in asked.prompts}
    assert not any("<image>" in text for text in texts)
    for text in texts:
        tokenizer.encode(text)


def test_the_first_words_of_an_answer_can_be_given():
    model, asked = small_model(), described(5)
    said = vlm.next_words(model, asked, ["a small red"] * 5)
    assert len(said) == 5
    assert all(len(word.split()) <= 1 for word in said)


def test_a_stage_leaves_the_model_its_own_methods_while_it_trains():
    model, asked = small_model(), described()
    own = []
    vlm.train_stage(
        model,
        asked,
        "connector",
        **QUIET,
        callback_every=1,
        callback=lambda *_: own.append("features" in vars(model)) or {},
    )
    assert own == [False, False]


def test_teacher_forced_is_what_the_loss_is_made_of():
    model, asked = small_model(), described(1)
    chances = vlm.teacher_forced(model, asked)
    ids, is_answer = model.tokenize(asked.prompts, asked.answers)
    loss = model.eval()(asked.images, ids, is_answer)[1]
    assert len(chances) == len(asked.answers[0].split()) + 1
    torch.testing.assert_close(-chances.log().mean(), loss)


def test_teacher_forced_puts_every_part_back_into_its_own_mode():
    model, asked = small_model(), described(1)
    model.train()
    model.encoder.eval()  # a frozen encoder under a model that learns
    vlm.teacher_forced(model, asked)
    assert model.training
    assert not model.encoder.training


def test_teacher_forced_refuses_answers_of_different_lengths():
    asked = dataclasses.replace(described(2), answers=("a star", "a red star"))
    with pytest.raises(ValueError, match="answers must have one length, received from 3 to 4 words"):
        vlm.teacher_forced(small_model(), asked)


def test_leading_tells_a_model_that_looks_from_one_that_follows_the_words(monkeypatch):
    asked = described(60, only=vlm.pairings(2))
    things = [objects[0] for objects in asked.objects]
    openings = []

    def looks(model, asked, said):
        openings.extend(said)
        return [thing.shape for thing in things]

    monkeypatch.setattr(vlm, "next_words", looks)
    assert vlm.leading(None, asked) == {"picture": 1.0, "said color": 0.0, "true color": 1.0}
    assert not any(thing.color in opening for thing, opening in zip(things, openings, strict=True))
    usual = dict(vlm.pairings(1))
    monkeypatch.setattr(vlm, "next_words", lambda model, asked, said: [usual[text.split()[-1]] for text in said])
    assert vlm.leading(None, asked) == {"picture": 0.0, "said color": 1.0, "true color": 0.0}


def test_words_are_drawn_over_the_places_they_looked_at():
    model, asked = small_model(), described(1)
    (answer,) = model.generate(asked.images, prompt=asked.prompts, max_new_tokens=3, return_attention=True)
    ax = plots.show_where_words_look(asked.images[0], answer)
    assert [text.get_text() for text in ax.texts] == list(answer.words)
    (without,) = model.generate(asked.images, prompt=asked.prompts, max_new_tokens=3)
    with pytest.raises(ValueError, match="return_attention=True"):
        plots.show_where_words_look(asked.images[0], without)


@pytest.mark.parametrize(("freeze", "moves"), [((), True), (("encoder",), False)])
def test_train_vlm_works_on_a_copy_of_the_encoder_and_freezes_it_where_asked(freeze, moves):
    encoder = vlm.build_vlm(image_size=16, embed_dim=8, depth=1, num_heads=2).encoder
    before = vlm.copy_weights(encoder)
    quiet = {name: value for name, value in QUIET.items() if name != "steps"}
    steps = {"language model": 1, "connector": 1, "joint": 1}
    model, _ = vlm.train_vlm(encoder, described(), steps=steps, freeze=freeze, embed_dim=8, depth=1, **quiet)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    moved = any(not torch.equal(tensor, before[name]) for name, tensor in model.encoder.state_dict().items())
    assert moved == moves


def test_an_encoder_or_a_size_of_image_that_does_not_fit_is_named():
    with pytest.raises(TypeError, match="encoder must be a ConvEncoder, received Identity"):
        vlm.build_vlm(torch.nn.Identity())
    with pytest.raises(ValueError, match=r"image_size must give a map of even sides, received 20: 5 × 5"):
        vlm.build_vlm(image_size=20)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"asked": SimpleNamespace(images=torch.rand(2, 3, 16, 32))}, "images of 16 × 32"),
        ({"steps": {}}, "steps={}"),
        ({"freeze": ["connector"]}, r"freeze=\('connector',\)"),
    ],
)
def test_what_train_vlm_cannot_do_is_refused_before_it_begins(options, received):
    given = {"asked": described(), "steps": {"connector": 1}} | options
    with pytest.raises(ValueError, match=f"images must be square, .*{received}"):
        vlm.train_vlm(None, **given)
