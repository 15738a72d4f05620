"""A finished student: a model with its preprocessing, view and class names, from raw inputs to answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StrictBool, StrictInt, ValidationError, model_validator
from torch import Tensor, nn

from tuition import factories, models
from tuition.data import Crop, Pool
from tuition.data.inputs import Inputs
from tuition.errors import UserError
from tuition.training import evaluation, files, published
from tuition.training.raw_inputs import read_raw

EVALUATION_BATCH = 256
LITTLE = 2**24  # values of a model that is made without a look at the size of its file

Output = Literal["logits", "embedding"]


class Prediction(Tensor):
    """Class indices (n,), with what belongs to each.

    Attributes:
        classes: the names of the predicted classes; None where the student has no names.
        confidence: the probability (n,) of each predicted class.
    """

    classes: list[str] | None
    confidence: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # its results are plain tensors

    def __repr__(self) -> str:  # type: ignore[override]
        names = self.classes if self.classes is not None else map(str, self.tolist())
        return f"[{', '.join(f'{name} ({p:.0%})' for name, p in zip(names, self.confidence.tolist(), strict=True))}]"


class Student(nn.Module):
    """A model that takes raw inputs: a pool, a tensor or an array (n, ...) or (...), texts, or pictures as files or
    objects of Pillow; one or several.

    Args:
        model: from preprocessed inputs to logits (n, k), or to embeddings (n, d).
        preprocess: from raw inputs to the model's; a `models.Hashing`, where these are texts.
        input_shape: shape of one raw input as the model sees it, after `crop`; of a text, its number of tokens.
        class_names: one name a class.
        crop: images of another size are cut to its centred view; None takes them as they are.
        image_size: height and width of the raw images that it learned from, before `crop`; None if not known.
        output: which of the two the model's output is.
        recipe: what makes the model's architecture again (see `models.rebuild`); by default a `NamedModel`'s own.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: nn.Module,
        *,
        input_shape: tuple[int, ...],
        class_names: tuple[str, ...] | None = None,
        crop: Crop | None = None,
        image_size: tuple[int, int] | None = None,
        output: Output = "logits",
        recipe: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.recipe = models.recipe_of(model) if recipe is None else recipe
        self.model, self.preprocess, self.output = model, preprocess, output
        self.input_shape, self.class_names, self.crop = tuple(input_shape), class_names, crop
        self.image_size = image_size
        # The memory format in which convolutions are fastest, on CPUs and GPUs alike.
        self.channels_last = len(self.input_shape) == 3
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Inputs) -> Tensor:
        """Raw inputs (n, *input_shape), uint8 images, float vectors, texts or their token ids -> outputs (n, k)."""
        read: Tensor = self.preprocess(inputs)
        if self.channels_last:
            read = read.contiguous(memory_format=torch.channels_last)
        return self.model(read)

    @torch.no_grad()
    def outputs(self, inputs: Any) -> Tensor:
        """Outputs (n, k) float32 on the CPU, in evaluation mode."""
        return self._collect(inputs, self)

    def logits(self, inputs: Any) -> Tensor:
        """Logits (n, k), as `outputs`.

        Raises:
            UserError: this is a student of embeddings.
        """
        if self.output != "logits":
            raise UserError("this student answers with embeddings, not with classes; use student.embed.")
        return self.outputs(inputs)

    def embed(self, inputs: Any) -> Tensor:
        """Embeddings (n, d): the outputs of a student of embeddings, of another its penultimate representation."""
        return self.outputs(inputs) if self.output == "embedding" else self.features(inputs)

    @torch.inference_mode()
    def features(self, inputs: Any, path: str | None = None) -> Tensor:
        """Outputs (n, ...) of a module by its path; by default the penultimate representation (n, d)."""
        path = f"{models.classifier(self.model)}:input" if path is None else path
        with models.Capture(self.model, [path]) as captured:

            def read(batch: Tensor) -> Tensor:
                self(batch)
                return captured[path]

            return self._collect(inputs, read)

    def _collect(self, inputs: Any, function: Callable[[Tensor], Tensor]) -> Tensor:
        blocks: Iterable[Tensor]
        if isinstance(inputs, Pool):
            rows, blocks = len(inputs), map(self._fitted, inputs.blocks())
        else:
            blocks = [self.read(inputs)]
            rows = len(blocks[0])
        device = next(self.parameters()).device
        training = self.training
        self.eval()
        try:
            done, answers = 0, torch.empty(0)
            for batch in chain.from_iterable(block.split(EVALUATION_BATCH) for block in blocks):
                answer = function(batch.to(device)).float()
                # One block for all answers: small ones kept between large temporary ones would fragment the memory.
                answers = answers if done else answer.new_empty(rows, *answer.shape[1:])
                answers[done : done + len(batch)] = answer
                done += len(batch)
        finally:
            self.train(training)
        return answers.cpu()

    def probabilities(self, inputs: Any) -> Tensor:
        """Class probabilities (n, k)."""
        return self.logits(inputs).softmax(dim=1)

    def predict(self, inputs: Any) -> Prediction:
        """Class indices (n,) of one or several inputs, with class names and confidences."""
        confidence, indices = self.probabilities(inputs).max(dim=1)
        prediction = indices.as_subclass(Prediction)
        prediction.classes = None if self.class_names is None else [self.class_names[i] for i in indices.tolist()]
        prediction.confidence = confidence
        return prediction

    def evaluate(self, pool: Pool) -> evaluation.Evaluation:
        """Accuracy, top-5 and calibration error on a labelled pool, its classes matched by name."""
        return evaluation.evaluate(self.logits(pool), self.labels_of(pool))

    def labels_of(self, pool: Pool) -> Tensor:
        """The labels of a pool as indices of this student's classes, matched by name.

        Raises:
            UserError: it has no labels, or some of classes that the student does not know.
        """
        labels = (pool if self.class_names is None else pool.in_classes(self.class_names)).labels
        if labels is None:
            raise UserError("evaluation needs labels; this pool has none.")
        return labels

    def export(self, path: str | Path) -> Path:
        """Write an ONNX model from raw inputs (any batch size) to "logits" or "embedding" (needs `tuition[onnx]`).

        Preprocessing is inside. The metadata name class names and input shape; of images, also the range of their
        values, the size to which pictures are resized before their centre is cut out, and the filter for that. Of a
        student of text the graph begins with token ids, "token_ids" (n, length) int32: what `models.Hashing` makes of
        the texts, with the settings under "hashing" in the metadata. The file is compared with the student before it is
        written.

        Raises:
            UserError: the forward pass cannot be exported, the file answers otherwise, or `path` is another's file.
        """
        from tuition.training.exporting import export

        return export(self, Path(path))

    def example(self) -> Tensor:
        """Two blank raw inputs (2, *input_shape); of texts, token ids."""
        return _blank(self.input_shape, self.preprocess)

    @property
    def reads_text(self) -> bool:
        return isinstance(self.preprocess, models.TextReader)

    @property
    def reads_grey(self) -> bool:
        return len(self.input_shape) == 3 and self.input_shape[0] == 1

    def read(self, inputs: Any) -> Tensor:
        """Raw inputs (n, *input_shape) as one tensor on the CPU: images cut to their view, texts as token ids.

        Pictures from files or of Pillow are squashed to `image_size`, if that is square, and lose their colours where
        the student reads grey. Grey images become RGB where it reads RGB.

        Raises:
            UserError: inputs of another kind or shape than this student's, a picture that cannot be read, or an empty
                text.
        """
        if isinstance(inputs, Pool):
            return self._fitted(inputs.asked())
        images = len(self.input_shape) == 3
        return self._fitted(read_raw(inputs, images=images, image_size=self.image_size, grey=self.reads_grey))

    def _fitted(self, raw: Inputs) -> Tensor:
        if isinstance(raw, list) and not self.reads_text:
            raise UserError("this student takes images or vectors, not text; use a student of text, such as bag_64.")
        rows: Tensor = self.preprocess(raw) if isinstance(raw, list) else raw
        if self.reads_text and rows.dtype != torch.int32:
            raise UserError("this student takes texts, not images or vectors; give it a list of strings.")
        rows = rows[None] if rows.ndim == len(self.input_shape) else rows
        if rows.ndim == 4 and rows.shape[1] == 1 and self.input_shape[0] == 3:
            rows = rows.expand(-1, 3, -1, -1)
        if self.crop is not None and tuple(rows.shape[1:]) != self.input_shape:
            rows = self.crop(rows, self.crop.centre(len(rows), (rows.shape[-2], rows.shape[-1])))
        if tuple(rows.shape[1:]) != self.input_shape:
            shape = tuple(rows.shape[1:] if rows.ndim == len(self.input_shape) + 1 else rows.shape)
            raise UserError(
                f"this student takes inputs of shape {self.input_shape}, not {shape}; resize or convert them first."
            )
        return rows

    # -- files -----------------------------------------------------------------------------------------------------

    def card(self) -> dict[str, Any]:
        """What is needed to build the same student again, for run.json."""
        return {
            "model": self.recipe,
            "input_shape": list(self.input_shape),
            "class_names": self.class_names,
            "crop": None if self.crop is None else vars(self.crop),
            "image_size": self.image_size,
            "hashing": self.preprocess.settings() if isinstance(self.preprocess, models.Hashing) else None,
            "tokenizer": self.preprocess.settings() if isinstance(self.preprocess, models.Tokenizer) else None,
            "resize": self.preprocess.settings() if isinstance(self.preprocess, models.Preprocess) else None,
            # A factory made it beside the model, and makes it again.
            "own_preprocess": not isinstance(self.preprocess, (models.TextReader, models.Preprocess)),
            "output": self.output,
        }


def _blank(shape: tuple[int, ...], preprocess: nn.Module) -> Tensor:
    text = isinstance(preprocess, models.TextReader)
    return torch.zeros(2, *shape, dtype=torch.uint8 if len(shape) == 3 else torch.int32 if text else torch.float32)


class Recipe(BaseModel):
    """What `models.create` makes the student's model from, as run.json has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    num_classes: int = Field(gt=0, le=10**6)
    in_channels: int = Field(gt=0, le=10**6)
    kind: Literal["texts", "images"] | None = None
    config: dict[str, Any] | None = None
    pooling: Literal["mean", "cls"] | None = None
    padding: int | None = None


class Card(BaseModel):
    """What run.json says of a student: see `Student.card`. Nothing else in it is used to make one."""

    model: Recipe | None
    input_shape: tuple[PositiveInt, ...] = Field(min_length=1)
    class_names: tuple[str, ...] | None
    crop: dict[str, StrictInt | StrictBool | None] | None
    image_size: tuple[PositiveInt, PositiveInt] | None = None
    hashing: dict[str, StrictInt | list[StrictInt]] | None = None
    tokenizer: dict[str, StrictInt] | None = None
    resize: dict[str, StrictInt | str] | None = None
    own_preprocess: bool = False
    output: Output = "logits"
    weights: str = Field(pattern=r"^\w[\w.-]*$")  # a file of the folder

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        """Bounded before anything is allocated."""
        if math.prod(self.input_shape) > 2**28:
            raise ValueError(f"inputs of {math.prod(self.input_shape):.3g} values")
        known = None if self.model is None or self.output != "logits" else self.model.num_classes
        if known is not None and self.class_names is not None and len(self.class_names) != known:
            raise ValueError(f"{len(self.class_names)} class names for {known} classes")
        return self


def load(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    preprocess: nn.Module | None = None,
    trust_code: bool = False,
) -> Student:
    """The student (or teacher) that a run holds, on the CPU, in evaluation mode.

    No code that the folder names is run, unless it is trusted: a student of the zoo or of timm is made by its name,
    any other needs its `model`, or `trust_code`.

    Args:
        run: the folder of a finished run, or, where there is none of that name here, a repository of the Hugging Face
            hub: "owner/name", or "owner/name@revision" for a branch, a tag or a commit. Its files are read from
            huggingface_hub's folder, and fetched if they are not there.
        model: the architecture, for a student that was not made by `models.create`; its weights are replaced.
        preprocess: the module that was passed to `distill`, if one was.
        trust_code: import and call the factory (`package.module:factory`) that the folder names.

    Raises:
        UserError: not a finished run, its files are damaged, or it names code that is not trusted.
    """
    directory = published.folder(run)
    record = files.read_run(directory)
    if record["status"] != "done":
        raise UserError(f"the run in {directory} is not finished; give its command again to finish it.")
    card = _card(directory, record)
    recipe = None if card.model is None else card.model.model_dump(exclude_none=True)
    if model is None:
        made = _made(directory, card, recipe, trust_code)
        model, preprocess = made.model, preprocess or (made.preprocess if card.own_preprocess else None)
    shape = card.input_shape
    try:
        crop = None if card.crop is None else Crop(**card.crop)  # type: ignore[arg-type]
        if preprocess is None and card.hashing is not None:
            preprocess = models.Hashing(**card.hashing)  # type: ignore[arg-type]
        if preprocess is None and card.tokenizer is not None:
            preprocess = models.Tokenizer(_text(directory / models.TOKENIZER), **card.tokenizer)
    except TypeError as error:
        raise UserError(f"{directory / files.RUN} is damaged ({error}); restore it.") from None
    if preprocess is None:
        if shape[0] > 10**6:
            raise UserError(f"{directory / files.RUN} is damaged (inputs of shape {shape}); restore it.")
        preprocess = models.Preprocess([0.0] * shape[0], [1.0] * shape[0], **(card.resize or {}))  # type: ignore[arg-type]
    models.initialise(model, preprocess, _blank(shape, preprocess))
    student = Student(
        model,
        preprocess,
        input_shape=shape,
        class_names=card.class_names,
        crop=crop,
        image_size=card.image_size,
        output=card.output,
        recipe=recipe,
    )
    weights = directory / card.weights
    models.load_tensors(student, models.read_tensors(weights, safetensors_only=True), weights)
    return student.eval()


def _card(directory: Path, record: Mapping[str, Any]) -> Card:
    try:
        return Card(**record["student"])
    except (KeyError, TypeError, ValidationError) as error:
        what = "it does not describe a student"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            what = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"].lower()]))
        raise UserError(f"{directory / files.RUN} is damaged ({what}); restore it.") from None


def _made(directory: Path, card: Card, recipe: dict[str, Any] | None, trust_code: bool) -> models.Made:
    """The architecture that the folder names, of the size of the weights beside it."""
    if recipe is None:
        raise UserError(
            "this student's model was not made by models.create, so its code is not known; "
            "pass it: load(run, model=my_module)."
        )
    name = recipe["name"]
    factories.refuse_untrusted(name, str(directory), trust_code)
    if not name.startswith("timm:") and not factories.is_factory(name):
        with torch.device("meta"):  # no numbers of a file decide how much memory is taken
            size = sum(value.numel() for value in models.rebuild(recipe).model.state_dict().values())
        path = directory / card.weights
        if path.exists() and size > max(path.stat().st_size, LITTLE):
            raise UserError(f"{path} is for another model: it is smaller than the {name} of run.json.")
    return models.rebuild(recipe)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it.") from None
