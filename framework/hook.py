"""`Hook`: an observer that is attached to a trainer and called at named points of the loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from framework.errors import HookError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer

POINTS: dict[str, tuple[str, ...]] = {
    "on_train_start": (),
    "on_epoch_start": (),
    "on_train_epoch_start": (),
    "on_step_start": ("batch",),
    "on_forward": ("outputs",),
    "on_loss": ("losses",),
    "on_backward": (),
    "on_update": (),
    "on_step_end": ("outputs",),
    "on_train_epoch_end": ("outputs",),
    "on_validation_epoch_start": (),
    "on_validation_epoch_end": ("outputs",),
    "on_epoch_end": (),
    "on_checkpoint": (),
    "on_train_end": (),
    "on_exception": ("error",),
    "on_teardown": (),
}
"""Every point of the loop with what is passed there; a hook's method gets the trainer before that."""


class Hook:
    """Watch a training, or act around it. Override the points you need; the others cost nothing.

    At each point the trainer's own method runs first, then hooks by ascending `priority`; hooks of equal
    priority run in the order in which they were attached (at `on_teardown` everything runs in reverse).
    A hook steers by request (`trainer.request_stop`, `request_checkpoint`, `request_validation`), not by
    exceptions. What it wants to remember across a resume it returns from `state_dict`.

    With several processes a hook runs in each of them: ask ``trainer.ranks.is_main`` before writing a file.

    The base methods are empty, so ``super()`` need not be called.
    """

    priority: int = 50
    """10 measures, 50 default, 70 reports, 90 saves: whoever saves sees what the others have done."""

    _name: str | None = None

    @property
    def name(self) -> str:
        """Unique within a trainer; names this hook's state in checkpoints. The class name unless set."""
        return self._name or type(self).__name__

    @name.setter
    def name(self, name: str) -> None:
        self._name = name

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs back: tensors and plain types only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def on_train_start(self, trainer: BaseTrainer) -> None:
        """Once in a process, when everything is built and, in a resumed run, loaded."""

    def on_epoch_start(self, trainer: BaseTrainer) -> None:
        """Before an epoch; not repeated when a run is resumed inside one."""

    def on_train_epoch_start(self, trainer: BaseTrainer) -> None:
        """Before the first training step of an epoch."""

    def on_step_start(self, trainer: BaseTrainer, batch: Any) -> None:
        """The batch is on the device; nothing has been computed."""

    def on_forward(self, trainer: BaseTrainer, outputs: Any) -> None:
        """The network was called through `trainer.forward` in a training step."""

    def on_loss(self, trainer: BaseTrainer, losses: dict[str, Any]) -> None:
        """`losses` holds every part and their weighted sum under ``"loss"``, still with their graph."""

    def on_backward(self, trainer: BaseTrainer) -> None:
        """The gradients of the whole iteration are there: unscaled, not yet clipped."""

    def on_update(self, trainer: BaseTrainer) -> None:
        """The parameters were updated, or the update was skipped (`trainer.update.skipped_updates`)."""

    def on_step_end(self, trainer: BaseTrainer, outputs: dict[str, Any]) -> None:
        """What `train_step` returned: tensors on the device. Reading one waits for the device."""

    def on_train_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        """The outputs of all training steps of the epoch, in order."""

    def on_validation_epoch_start(self, trainer: BaseTrainer) -> None:
        """Before the first validation step; not called in epochs without validation."""

    def on_validation_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        """The outputs of all validation steps of the epoch, in order."""

    def on_epoch_end(self, trainer: BaseTrainer) -> None:
        """The epoch counts as completed; `trainer.history` can still be added to."""

    def on_checkpoint(self, trainer: BaseTrainer) -> None:
        """All state of this moment is final and may be saved. Also called inside an epoch, on request."""

    def on_train_end(self, trainer: BaseTrainer) -> None:
        """All epochs are completed, or a stop was requested that ends the training. Not after an interruption."""

    def on_exception(self, trainer: BaseTrainer, error: BaseException) -> None:
        """Something was raised; it is raised again after all hooks have heard of it."""

    def on_teardown(self, trainer: BaseTrainer) -> None:
        """Always, at the very end, in reverse order: close what was opened."""


class TrainerPoints:
    """The same points as methods of the trainer itself; empty, so that a subclass overrides what it needs."""

    def on_train_start(self) -> None: ...
    def on_epoch_start(self) -> None: ...
    def on_train_epoch_start(self) -> None: ...
    def on_step_start(self, batch: Any) -> None: ...
    def on_forward(self, outputs: Any) -> None: ...
    def on_loss(self, losses: dict[str, Any]) -> None: ...
    def on_backward(self) -> None: ...
    def on_update(self) -> None: ...
    def on_step_end(self, outputs: dict[str, Any]) -> None: ...
    def on_train_epoch_end(self, outputs: list[dict[str, Any]]) -> None: ...
    def on_validation_epoch_start(self) -> None: ...
    def on_validation_epoch_end(self, outputs: list[dict[str, Any]]) -> None: ...
    def on_epoch_end(self) -> None: ...
    def on_checkpoint(self) -> None: ...
    def on_train_end(self) -> None: ...
    def on_exception(self, error: BaseException) -> None: ...
    def on_teardown(self) -> None: ...


class HookList:
    """The hooks of a trainer, and for each point the table of what is to be called."""

    def __init__(self, trainer: TrainerPoints) -> None:
        _check_points(type(trainer).__name__, trainer, leading_arguments=())
        self._trainer = trainer
        self._hooks: list[Hook] = []
        self._dispatch = self._table()

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """In the order in which they are called."""
        return tuple(self._hooks)

    def attach(self, *hooks: Hook) -> None:
        """Add hooks; HookError for a misspelt point, a wrong signature, or a name that is taken."""
        for hook in hooks:
            _check_hook(hook, self._hooks)
            self._hooks.append(hook)
        self._hooks.sort(key=lambda hook: hook.priority)
        self._dispatch = self._table()

    def detach(self, name: str) -> Hook:
        """Remove and return the hook of that name."""
        found = [hook for hook in self._hooks if hook.name == name]
        if not found:
            raise UnknownNameError("hook", name, [hook.name for hook in self._hooks])
        self._hooks.remove(found[0])
        self._dispatch = self._table()
        return found[0]

    def announce(self, point: str, *results: Any) -> None:
        """Call everything that listens at a point: the trainer itself first, then the hooks in order."""
        for call in self._dispatch[point]:
            call(*results)

    def announce_guarded(
        self, point: str, report: Callable[[str], None], *results: Any, in_reverse: bool = False
    ) -> None:
        """The same where one failing hook must hide neither the others nor the error that led here."""
        calls = self._dispatch[point]
        for call in reversed(calls) if in_reverse else calls:
            try:
                call(*results)
            except Exception as error:
                report(f"warning: a hook failed in {point}: {error!r}")

    def _table(self) -> dict[str, tuple[Callable[..., None], ...]]:
        """Only methods that are really overridden: a point that nobody listens at costs nothing."""
        trainer = self._trainer
        table = {}
        for point in POINTS:
            calls: list[Callable[..., None]] = []
            if getattr(type(trainer), point) is not getattr(TrainerPoints, point):
                calls.append(getattr(trainer, point))
            for hook in self._hooks:
                if getattr(type(hook), point) is not getattr(Hook, point):
                    calls.append(partial(getattr(hook, point), trainer))
            table[point] = tuple(calls)
        return table


def _check_hook(hook: Hook, attached: Iterable[Hook]) -> None:
    """Refuse what would silently never run: HookError names the nearest right point."""
    if not isinstance(hook, Hook):
        raise HookError(f"{hook!r} is not a Hook. Derive its class from framework.hook.Hook and pass an instance.")
    _check_points(type(hook).__name__, hook, leading_arguments=("trainer",))
    if any(other is hook or other.name == hook.name for other in attached):
        raise HookError(
            f"a hook named '{hook.name}' is attached already. Set another name before attaching: hook.name = 'second'."
        )


def _check_points(owner: str, thing: object, leading_arguments: tuple[str, ...]) -> None:
    """Every public ``on_*`` method must be a point of the loop and take what is passed there."""
    for attribute in dir(thing):
        if not attribute.startswith("on_"):
            continue
        if attribute not in POINTS:
            raise HookError(
                f"{owner}.{attribute} is not a point of the loop and would never be called."
                f"{did_you_mean(attribute, POINTS)} Points: {', '.join(POINTS)}."
            )
        arguments = (*leading_arguments, *POINTS[attribute])
        method = getattr(thing, attribute)
        try:
            inspect.signature(method).bind(*arguments)
        except TypeError:
            raise HookError(
                f"{owner}.{attribute}{inspect.signature(method)} has the wrong signature; "
                f"it is called with ({', '.join(('self', *arguments))})."
            ) from None
