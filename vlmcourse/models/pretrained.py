"""The other road: a small open model that others trained, behind the same ``generate`` (slide S02).

Needs the library ``transformers`` (``pip install "vlmcourse[pretrained]"``) and, for the first use of a model, a
network to download its weights. Nothing else in the course depends on it.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlmcourse.models.language_model import check_sampling
from vlmcourse.models.vlm import PROMPT, Answer, Images
from vlmcourse.ops._checks import check_floating, check_positive_int
from vlmcourse.ops._modes import evaluating

SMALL_MODEL = "HuggingFaceTB/SmolVLM-256M-Instruct"  # 256 million parameters, half a gigabyte to download


class PretrainedVLM:
    """A vision-language model of the ``transformers`` library that is asked as the course's own is.

    The prompt is the course's, with ``<image>`` where a picture belongs. If the model was trained on conversations (its
    processor has a chat template), the prompt becomes what the user says in one; otherwise it is handed over as it is.

    Shapes:
        images as for :class:`~vlmcourse.models.vlm.VisionLanguageModel`, with three channels and values in [0, 1]; any
        size, the model's own processor resizes.

    Raises:
        ImportError: ``transformers`` is missing; the message says what to install.
        ValueError: placeholders and images that do not match, or options out of range.

    Source:
        Marafioti et al. 2025 (arXiv 2504.05299) for the model that :meth:`from_pretrained` takes by default. Slide S02.

    >>> model = PretrainedVLM.from_pretrained()  # doctest: +SKIP
    >>> model.generate(torch.rand(1, 3, 64, 64))  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, processor: Any) -> None:
        self.model: Any = model.eval()
        self.processor = processor
        processor.tokenizer.padding_side = "left"  # so that all prompts end in the column that answers continue
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    @classmethod
    def from_pretrained(cls, name: str = SMALL_MODEL, **options: Any) -> "PretrainedVLM":
        """Return the model of that name on the Hugging Face hub, or in that folder.

        Options go to both loaders of the library: ``revision="…"`` pins a version, ``local_files_only=True`` forbids
        the network. No code that comes with a model is executed.

        Raises:
            ImportError: ``transformers`` is missing.
            OSError: there is no such model, or no network.
        """
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise ImportError(
                'a pretrained model needs the library transformers; try: pip install "vlmcourse[pretrained]"'
            ) from error
        options = {"trust_remote_code": False, **options}
        return cls(
            AutoModelForImageTextToText.from_pretrained(name, **options),
            AutoProcessor.from_pretrained(name, **options),
        )

    @torch.no_grad()
    def generate(
        self,
        images: Images = None,
        *,
        prompt: str | Sequence[str] = PROMPT,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Answer]:
        """Answer each prompt, as :meth:`~vlmcourse.models.vlm.VisionLanguageModel.generate` does."""
        check_positive_int("max_new_tokens", max_new_tokens)
        check_sampling(temperature, top_p)
        rows = _rows(images)
        prompts = [prompt] * (1 if rows is None else len(rows)) if isinstance(prompt, str) else list(prompt)
        rows = [[] for _ in prompts] if rows is None else rows
        _check_placeholders(prompts, rows)
        where = self.model.device
        inputs = self.processor(
            text=[self._written(text) for text in prompts],
            images=rows if any(rows) else None,
            padding=True,
            return_tensors="pt",
        ).to(where, self.model.dtype)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
        tokenizer = self.processor.tokenizer
        with evaluating(self.model), torch.random.fork_rng([where] if where.type == "cuda" else []):
            torch.manual_seed(seed)
            written = self.model.generate(
                **inputs,
                **(sampling or {"do_sample": False}),
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                output_logits=True,
                return_dict_in_generate=True,
            )
        said = written.sequences[:, inputs["input_ids"].shape[1] :].cpu()
        chances = torch.stack(written.logits, dim=1).float().softmax(-1).cpu().gather(2, said[..., None])[..., 0]
        return [self._answer(ids, sure) for ids, sure in zip(said, chances, strict=True)]

    def _written(self, prompt: str) -> str:
        """Put the prompt into the form that the model was trained on."""
        if self.processor.chat_template is None:
            return prompt.replace("<image>", self.processor.image_token)
        parts = [part for part in re.split(r"\s*(<image>)\s*", prompt) if part]
        content = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def _answer(self, ids: Tensor, sure: Tensor) -> Answer:
        ends = self.model.generation_config.eos_token_id
        is_end = torch.isin(ids, torch.tensor([] if ends is None else ends).long())
        length = int(is_end.int().argmax()) + 1 if is_end.any() else len(ids)
        tokenizer, words = self.processor.tokenizer, ids[: length - int(is_end.any())]
        return Answer(
            tokenizer.decode(words, skip_special_tokens=True).strip(),
            words=[tokenizer.decode([number]) for number in words.tolist()],
            probabilities=sure[:length],
            finished=bool(is_end.any()),
        )


def _rows(images: Images) -> list[list[Tensor]] | None:
    """Return each prompt's images, as the bytes that processors expect."""
    if images is None:
        return None
    if isinstance(images, Tensor) and images.ndim not in (4, 5):
        raise ValueError(f"images must have shape (b, 3, h, w) or (b, k, 3, h, w), received {tuple(images.shape)}")
    rows = []
    for row in images:
        check_floating("images", row)
        row = row[None] if isinstance(images, Tensor) and images.ndim == 4 else row
        if row.ndim != 4 or row.shape[1] != 3:
            raise ValueError(f"images must have three channels, (…, 3, h, w), received {tuple(row.shape)} for a prompt")
        if len(row) and not 0 <= float(row.min()) <= float(row.max()) <= 1:
            raise ValueError(f"images must lie in [0, 1], received {float(row.min()):.3g} to {float(row.max()):.3g}")
        rows.append([(image * 255).round().byte().cpu() for image in row])
    return rows


def _check_placeholders(prompts: Sequence[str], rows: Sequence[Sequence[Tensor]]) -> None:
    if len(prompts) != len(rows) or not prompts:
        raise ValueError(f"images must come for each of the {len(prompts)} prompts, received {len(rows)}")
    for k, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        if not prompt.strip():
            raise ValueError(f"prompt {k} must hold at least one word, received {prompt!r}; try {PROMPT!r}")
        if prompt.count("<image>") != len(row):
            raise ValueError(
                f"prompt {k} has {prompt.count('<image>')} <image> placeholders, received {len(row)} images for it; "
                f"each placeholder stands for one image"
            )
