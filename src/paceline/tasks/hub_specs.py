"""The public question sets: where each is, which columns it has, and how it asks and judges."""

from dataclasses import dataclass

from paceline.tasks.prompts import LETTER_ANSWER, SHORT_ANSWER


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSpec:
    """One question set on the Hugging Face hub. Columns are named as there."""

    name: str
    title: str
    repository: str
    files: str  # of the part that has answers, within the repository
    split: str  # what the repository calls that part
    metric: str
    paper: str  # of the metric as this set uses it
    prompt: str = SHORT_ANSWER
    choice_prompt: str = LETTER_ANSWER  # for questions with options
    max_new_tokens: int = 16
    question: str = "question"
    context: str | None = None  # a text that goes before the question, where there is one
    answer: str = "answer"
    choices: str | None = None
    images: tuple[str, ...] = ("image",)
    image_id: tuple[str, ...] = ()  # what identifies an image; without them its bytes do
    key: tuple[str, ...] = ()  # what identifies a question; without them its row does
    kind: str | None = None  # kind of question
    note: str = ""  # what a user should know, for the docs

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, but for images."""
        optional = (self.context, self.choices, self.kind)
        named = (self.question, self.answer, *self.image_id, *self.key, *(name for name in optional if name))
        return tuple(dict.fromkeys(named))


_ALL = (
    HubSpec(
        name="vqav2",
        title="VQAv2",
        repository="lmms-lab/VQAv2",
        files="data/validation-*",
        split="validation",
        metric="vqa",
        paper="Goyal et al. 2017",
        answer="answers",
        image_id=("image_id",),
        key=("question_id",),
        kind="answer_type",
    ),
    HubSpec(
        name="textvqa",
        title="TextVQA",
        repository="lmms-lab/textvqa",
        files="data/validation-*",
        split="validation",
        metric="vqa",
        paper="Singh et al. 2019",
        answer="answers",
        image_id=("image_id",),
        key=("question_id",),
        note="OCR tokens are not shown",
    ),
    HubSpec(
        name="okvqa",
        title="OK-VQA",
        repository="lmms-lab/OK-VQA",
        files="data/val2014-*",
        split="val2014",
        metric="vqa",
        paper="Marino et al. 2019",
        answer="answers",
        key=("question_id",),
        kind="question_type",
    ),
    HubSpec(
        name="chartqa",
        title="ChartQA",
        repository="lmms-lab/ChartQA",
        files="data/test-*",
        split="test",
        metric="relaxed",
        paper="Masry et al. 2022",
        kind="type",
    ),
    HubSpec(
        name="docvqa",
        title="DocVQA",
        repository="lmms-lab/DocVQA",
        files="DocVQA/validation-*",
        split="validation",
        metric="anls",
        paper="Mathew et al. 2021",
        max_new_tokens=32,
        answer="answers",
        image_id=("ucsf_document_id", "ucsf_document_page_no"),
        key=("questionId",),
        kind="question_types",
        note="the first of a question's types is its kind",
    ),
    HubSpec(
        name="ai2d",
        title="AI2D",
        repository="lmms-lab/ai2d",
        files="data/test-*",
        split="test",
        metric="multiple_choice",
        paper="Kembhavi et al. 2016",
        choices="options",
    ),
    HubSpec(
        name="scienceqa",
        title="ScienceQA",
        repository="lmms-lab/ScienceQA",
        files="ScienceQA-IMG/test-*",
        split="test",
        metric="multiple_choice",
        paper="Lu et al. 2022",
        context="hint",
        choices="choices",
        kind="subject",
        note="questions without an image are skipped",
    ),
    HubSpec(
        name="mmmu",
        title="MMMU",
        repository="lmms-lab/MMMU",
        files="data/validation-*",
        split="validation",
        metric="mmmu",
        paper="Yue et al. 2024",
        choices="options",
        images=tuple(f"image_{number}" for number in range(1, 8)),
        key=("id",),
        kind="question_type",
        note="questions with several images are skipped",
    ),
    HubSpec(
        name="pope",
        title="POPE",
        repository="lmms-lab/POPE",
        files="data/test-*",
        split="test",
        metric="yes_no",
        paper="Li et al. 2023",
        image_id=("image_source",),
        key=("category", "question_id"),
        kind="category",
    ),
)

HUB_SPECS: dict[str, HubSpec] = {spec.name: spec for spec in _ALL}
"""By name, in the order of the documentation."""
