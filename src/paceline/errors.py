"""The errors a user can meet. Each message says what, what was got, what was expected, and what to do."""


class PacelineError(Exception):
    """Base of every error that a user can cause; the command line turns it into exit code 2."""


class KnobError(PacelineError):
    """A knob, option, configuration or action outside its knob space."""


class BudgetError(PacelineError):
    """A budget that is not a positive, finite time or a known share or class."""


class InfeasibleBudgetError(PacelineError):
    """No configuration fits the budget and the caller asked for rejection."""


class ModelError(PacelineError):
    """An unknown model, or weights that do not fit it."""


class TaskError(PacelineError):
    """An unknown task, split or metric, or questions that cannot be used."""


class ImageError(PacelineError):
    """An image that cannot be read or has an unusable size."""


class PromptError(PacelineError):
    """A prompt that is empty or longer than the model can read."""


class OutcomesError(PacelineError):
    """An outcomes directory that is missing, damaged or breaks its contract."""


class ProfileError(PacelineError):
    """A sweep that cannot start or go on."""


class TrainError(PacelineError):
    """Training options or data from which no policy can be learned."""


class ControllerError(PacelineError):
    """A controller directory that is missing, damaged, too new, or of another knob space."""


class ExportError(PacelineError):
    """Options or data from which no file can be exported."""


class DependencyError(PacelineError):
    """An optional library is missing; the message names the extra to install."""
