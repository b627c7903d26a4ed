"""`BaseTrainer`: the loop and its hook points. It knows nothing of segmentation."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from framework.batch_shares import can_be_shared, share_of_rank, turns
from framework.checkpoint_writer import CheckpointWriter
from framework.device import choose_device, execution_for, memory_format_for, prepare_libraries
from framework.device_batches import batches_on_device
from framework.distributed import launch_id, ranks, restarts
from framework.experiment import Experiment, checked_fold, find_plans
from framework.history import History
from framework.hook import Hook, HookList, TrainerPoints
from framework.hooks import default_hooks, hooks_from_settings
from framework.lockstep import Lockstep
from framework.loss_weights import LossWeights
from framework.optimizers import build_optimizer
from framework.parameter_update import ParameterUpdate
from framework.progress import Progress
from framework.randomness import seed_libraries
from framework.rank_outputs import merge_by_kind
from framework.roots import dataset_name, results_root
from framework.run_folder import RunFolder
from framework.schedules import build_schedule
from framework.trainer_state import restore_trainer, resume_trainer, trainer_state
from framework.training_settings import TrainingSettings

if TYPE_CHECKING:
    from typing_extensions import Self

Outputs = dict[str, Any]


class BaseTrainer(TrainerPoints, ABC):
    """Repeat a fixed number of iterations per epoch, and announce what happens.

    Subclass it to say what is computed: `build_network`, `build_batches` and `compute_losses` are enough;
    every other ``build_*``, `train_step` and `validation_step` can be replaced one by one. Attach a `Hook`,
    or override an ``on_*`` method, to act around it. All default behaviour is in hooks (`default_hooks`).

    Args:
        settings: the numbers of the training.
        run_folder: where checkpoints, history and logs go; None writes nothing.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        hooks: attached after the default ones and those named in `settings`.
        experiment: the record of plans, dataset and fold; trainers that need none run without.
    """

    monitor = "val_loss"
    """Column of the history that decides which checkpoint is the best, and when to stop early."""
    monitor_mode = "min"
    class_names: Sequence[str] = ()
    """What the entries of ``dice_per_class_or_region`` in the history are called."""
    find_unused_parameters = True
    """With several processes, look in every step for parameters that took no part; False saves the search."""

    def __init__(
        self,
        settings: TrainingSettings | None = None,
        *,
        run_folder: RunFolder | Path | str | None = None,
        device: str | torch.device = "auto",
        hooks: Iterable[Hook] = (),
        experiment: Experiment | None = None,
    ) -> None:
        self.settings = settings or TrainingSettings()
        self.run_folder = RunFolder(run_folder) if isinstance(run_folder, (str, Path)) else run_folder
        self.ranks = ranks()
        """This process among those that train together; ``trainer.ranks.is_main`` is the one that writes files."""
        self.device = choose_device(device)
        self.execution = execution_for(self.settings, self.device)
        self.experiment = experiment
        self.progress = Progress()
        self.history = History()
        self.changed_settings: list[dict[str, Any]] = []
        """For each resume that changed numbers of the training: when, and which."""
        self.stop_reason: str | None = None
        self.interrupted = False
        self.requested_checkpoints: set[str] = set()
        self.checkpoint_writer = CheckpointWriter()
        self.data_wait_seconds = 0.0
        self.report: Callable[[str], None] = print if self.ranks.is_main else say_nothing
        self.validation_requested = False
        self.lockstep = Lockstep(self, self.ranks)
        self._is_set_up = False
        self.train_outputs: list[Outputs] = []
        self.validation_outputs: list[Outputs] = []
        self._hooks = HookList(self)
        self.attach(*self.default_hooks(), *hooks_from_settings(self.settings), *hooks)

    # ---------------------------------------------------------------- the loop

    def run_training(self) -> None:
        """Train until `settings.num_epochs` epochs are completed or somebody requests a stop.

        Order of calls:

            on_train_start
              on_epoch_start
                on_train_epoch_start
                  on_step_start -> train_step [on_forward, on_loss, on_backward, on_update] -> on_step_end
                on_train_epoch_end
                on_validation_epoch_start
                  validation_step
                on_validation_epoch_end
              on_epoch_end
              on_checkpoint
            on_train_end
            on_teardown

        A resumed run continues at the step where it was left; points that were announced before are not
        repeated, apart from on_train_start. on_exception comes where something is raised.
        """
        try:
            self.setup()
            self._announce("on_train_start")
            self.lockstep.agree()
            while not self._is_complete():
                self._run_epoch()
                self.lockstep.agree()
                if self._is_left_now():
                    return
            self.progress.finished = True
            self._announce("on_train_end")
        except BaseException as raised:
            self.ranks.note_failure(raised)
            error = self.ranks.explained(raised)
            self._hooks.announce_guarded("on_exception", self.report, error)
            if error is raised:
                raise
            raise error from raised
        finally:
            self._tear_down()

    def _run_epoch(self) -> None:
        progress = self.progress
        if progress.phase == "between epochs":
            self._begin_epoch()
            self._announce("on_epoch_start")
            self._announce("on_train_epoch_start")
            progress.phase = "training"
        if progress.phase == "training":
            self.network.train()
            while progress.steps_completed < self.steps_per_epoch:
                self._run_step()
                if self._is_left_now():
                    return
            self.lockstep.merge_outputs()
            self._announce("on_train_epoch_end", self.train_outputs)
            self.lockstep.agree()
            progress.phase = "validation" if self._validation_is_due() else "after validation"
            if progress.phase == "validation":
                self.lockstep.begin_validation()
                self._announce("on_validation_epoch_start")
        if progress.phase == "validation":
            self.network.eval()
            while progress.validation_steps_completed < self.validation_steps:
                self._run_validation_step()
                if self._is_left_now():
                    return
            self.lockstep.merge_outputs()
            self._announce("on_validation_epoch_end", self.validation_outputs)
            progress.validation_epochs_completed += 1
        self._complete_epoch()
        self._announce("on_epoch_end")
        self.lockstep.agree()
        self._announce_checkpoint()

    def _run_step(self) -> None:
        started = time.perf_counter()
        batch = self.lockstep.next_batch(self.training_batches)
        self.data_wait_seconds += time.perf_counter() - started
        self._seed_libraries("training step", self.global_step)
        self._set_learning_rate()
        self._announce("on_step_start", batch)
        outputs = self.train_step(batch)
        self._announce("on_step_end", outputs)
        self.train_outputs.append(outputs)
        self.progress.steps_completed += 1

    def _run_validation_step(self) -> None:
        number = self.progress.validation_steps_completed
        batch = self.lockstep.next_batch(self.validation_batches)
        self._seed_libraries("validation step", number)
        with torch.no_grad():
            self.validation_outputs.append(self.validation_step(batch))
        self.progress.validation_steps_completed += 1

    # ------------------------------------------------- what a subclass must say

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The module that is trained, on the CPU."""

    @abstractmethod
    def build_batches(self) -> tuple[Any, Any]:
        """Training and validation batches.

        Each is a function ``make_batch(number)``, which is run in worker processes and makes a resume exact
        and immediate, or an iterable. Validation calls numbers 0 ... validation_iterations_per_epoch - 1
        in every epoch. None in second place means that there is no validation.

        With several processes, an object with a method ``share(rank, num_ranks)`` divides each batch among them;
        of anything else they take whole batches in turns.
        """

    @abstractmethod
    def compute_losses(self, batch: Any) -> dict[str, Tensor]:
        """Named parts of the loss for one batch, in training as in validation.

        A part is a scalar, or one value per element (n,), which is averaged and weighs n in epoch means.
        Call the network through `self.forward`.
        """

    # ------------------------------------------------- what a subclass may change

    def build_loss(self) -> nn.Module | None:
        """A loss with parameters or buffers; kept as `self.loss`, on the device."""
        return None

    def build_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return build_optimizer(self.settings, parameters)

    def build_schedule(self) -> Callable[[int], float]:
        """Learning rate as a function of the number of updates made so far."""
        return self._schedule(self.settings.schedule, "training.schedule", initial=self.settings.initial_lr)

    def build_update(self) -> ParameterUpdate:
        return ParameterUpdate(
            self.optimizer,
            self.network.parameters(),
            device=self.device,
            precision=self.execution.precision,
            clip_norm=self.settings.gradient_clip_norm,
            accumulation=self.settings.gradient_accumulation,
            non_finite=self.settings.non_finite,
            max_consecutive=self.settings.max_non_finite_updates,
        )

    def train_step(self, batch: Any) -> Outputs:
        """Losses, backward, update. Returns detached tensors that stay on the device."""
        with self.update.autocast():
            losses, outputs = self._losses(batch)
        self._announce("on_loss", losses)
        if self.update(losses["loss"], self._announce):
            outputs["gradient_norm"] = self.update.gradient_norm
        return outputs

    def validation_step(self, batch: Any) -> Outputs:
        """The same losses with the same weights, without gradients."""
        with self.update.autocast():
            _, outputs = self._losses(batch)
        return outputs

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Call the network; announces on_forward while training. With several processes it joins their gradients."""
        outputs = self.lockstep.network()(*inputs, **options)
        if self.network.training:
            self._announce("on_forward", outputs)
        return outputs

    def merge_outputs(self, name: str, values: Sequence[Any]) -> Any:
        """One entry of a step's outputs, from the values of all processes; see `framework.rank_outputs`."""
        return merge_by_kind(name, values)

    def default_hooks(self) -> list[Hook]:
        """Losses, console, files, checkpoints, signals: what every training wants."""
        return default_hooks(self)

    @classmethod
    def prepare(
        cls,
        dataset: str | int,
        configuration: str,
        plans: str | None,
        device: torch.device,
        report: Callable[[str], None],
        progress: Callable[[str, int, int], None] | None = None,
    ) -> tuple[str, Path]:
        """Make the data ready before a training; returns the dataset's full name and the plans file to use."""
        name = dataset_name(dataset)
        return name, find_plans(name, plans)

    # ------------------------------------------------- from a dataset and back again

    @classmethod
    def from_dataset(
        cls,
        dataset: str | int,
        configuration: str,
        fold: int | str = 0,
        *,
        plans: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        hooks: Iterable[Hook] = (),
        device: str | torch.device = "auto",
        resume: bool | str = False,
        report: Callable[[str], None] = print,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Self:
        """A trainer of this class for one fold; plans and preprocesses the data first where that is missing.

        Args:
            dataset: an id, ``DatasetXXX_Name``, or a name.
            plans: name of a plans file of the dataset, or of a preset.
            overrides: fields of the configuration, for example ``{"training.num_epochs": 20}``.
            resume: continue from the newest checkpoint of the run folder, or from the one with this tag
                (``"final"``, ``"best"``), under the plans saved there. What torchrun starts again is resumed.
            progress: told what is prepared, how many cases are done, and how many there are.
        """
        together = ranks()
        device = choose_device(device)
        fold = checked_fold(fold)
        if not together.is_main:
            report, progress = say_nothing, None
        with together.main_first():
            name, plans_file = cls.prepare(dataset, configuration, plans, device, report, progress)
        run_folder = RunFolder.of(results_root(), name, cls.__name__, plans_file.stem, configuration, fold)
        resume = resume or (restarts() > 0 and run_folder.was_begun_by(launch_id()))
        experiment = Experiment.of_dataset(
            name,
            plans_file,
            configuration,
            fold,
            run_folder=run_folder,
            overrides=overrides or {},
            resume=bool(resume),
        )
        trainer = cls(
            experiment.settings,
            run_folder=experiment.run_folder,
            device=device,
            hooks=hooks,
            experiment=experiment,
        )
        trainer.report = report
        if resume and not trainer.resume(resume if isinstance(resume, str) else None):
            report("no checkpoint to continue from was found: starting at epoch 0")
        return trainer

    def resume(self, tag: str | None = None) -> bool:
        """Continue from the newest readable checkpoint of the run folder; False if there is none.

        With a `tag` exactly that checkpoint is used; CheckpointError if it is missing.
        """
        return resume_trainer(self, tag)

    def setup(self) -> None:
        """Build all parts, in the order in which they depend on each other; a second call does nothing."""
        if self._is_set_up:
            return
        prepare_libraries(self.device, self.execution)
        seed_libraries(self.settings.seed, "network", 0)
        self.network = self.build_network().to(self.device)
        if self.execution.channels_last:
            self.network = self.network.to(memory_format=memory_format_for(self.network))  # type: ignore[call-overload]
        self.loss = self.build_loss()
        if self.loss is not None:
            self.loss = self.loss.to(self.device)
        self.optimizer = self.build_optimizer([p for p in self.network.parameters() if p.requires_grad])
        self.schedule = self.build_schedule()
        self._loss_weights = LossWeights(
            {
                name: self._schedule(spec, f"training.loss_weights.{name}")
                for name, spec in self.settings.loss_weights.items()
            }
        )
        self.update = self.build_update()
        training, validation = self.build_batches()
        number = self.settings.validation_iterations_per_epoch
        self.validates_whole_batches = not can_be_shared(validation)
        self.validation_steps = turns(number, self.ranks) if self.validates_whole_batches else number
        training, validation = share_of_rank(training, self.ranks), share_of_rank(validation, self.ranks, number)
        self.training_batches = batches_on_device(training, self.device, self.execution)
        self.validation_batches = batches_on_device(
            validation, self.device, self.execution, cycle=self.validation_steps
        )
        self._has_validation = validation is not None and self.settings.validation_iterations_per_epoch > 0
        if self.execution.compile:
            self.network.compile()
        self._is_set_up = True

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, under nnU-Net's keys where it has them."""
        return trainer_state(self)

    def load_state_dict(self, state: dict[str, Any], source: Path | str = "checkpoint") -> None:
        """Take back what `state_dict` returned. CheckpointError if it does not fit this trainer."""
        self.setup()
        restore_trainer(self, state, source)

    def data_identity(self) -> dict[str, str]:
        """A digest for each kind of data that the training reads; a resumed run tells which has changed."""
        return {}

    def load_network_weights(self, weights: dict[str, Tensor]) -> None:
        """Load weights as they are named in a checkpoint."""
        self.network.load_state_dict(weights)

    def seek_batches(self) -> None:
        """Continue the batches where the progress says."""
        self.training_batches.seek(self.global_step)
        if self._has_validation:
            completed, inside = self.progress.validation_epochs_completed, self.progress.validation_steps_completed
            self.validation_batches.seek(completed * self.validation_steps + inside)

    def save_checkpoint(self, tag: str) -> None:
        """Write ``checkpoint_<tag>.pth`` into the run folder, with the state of this moment, while training goes on."""
        if self.run_folder is not None and self.ranks.is_main:
            self.checkpoint_writer.save(self.run_folder.checkpoint(tag), self.state_dict())

    # ------------------------------------------------- what hooks use

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Attached hooks, in the order in which they are called."""
        return self._hooks.hooks

    def attach(self, *hooks: Hook) -> None:
        """Add hooks; HookError for a misspelt point, a wrong signature, or a name that is taken."""
        self._hooks.attach(*hooks)

    def detach(self, name: str) -> Hook:
        """Remove and return the hook of that name."""
        return self._hooks.detach(name)

    def request_stop(self, reason: str, *, immediately: bool = False) -> None:
        """Ask for the end: after this epoch as a completed training, or `immediately`, to be resumed."""
        # In this order: a thread may ask, and the loop must not take an interruption for a completed training.
        self.interrupted = self.interrupted or immediately
        self.stop_reason = reason

    def request_checkpoint(self, tag: str = "latest") -> None:
        """Ask for ``checkpoint_<tag>.pth`` at the next step."""
        self.requested_checkpoints.add(tag)

    def request_validation(self) -> None:
        """Ask for validation after this epoch even if it is not due."""
        self.validation_requested = True

    @property
    def steps_per_epoch(self) -> int:
        return self.settings.iterations_per_epoch * self.settings.gradient_accumulation

    @property
    def global_step(self) -> int:
        """Training batches used so far, over all epochs."""
        return self.progress.global_step(self.steps_per_epoch)

    @property
    def global_iteration(self) -> int:
        """Parameter updates made so far, over all epochs."""
        return self.global_step // self.settings.gradient_accumulation

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    # ------------------------------------------------- inside

    def _announce(self, point: str, *results: Any) -> None:
        self._hooks.announce(point, *results)

    def _tear_down(self) -> None:
        try:
            # Before the hooks: the run folder belongs to this process until its checkpoints are complete.
            self.checkpoint_writer.close()
        finally:
            self._hooks.announce_guarded("on_teardown", self.report, in_reverse=True)
            if self._is_set_up:
                self.training_batches.close()
                self.validation_batches.close()

    def _is_complete(self) -> bool:
        reached = self.progress.epochs_completed >= self.settings.num_epochs
        return self.progress.finished or reached or self.lockstep.completes

    def _is_left_now(self) -> bool:
        """Between two iterations: save what was asked for; True if the run is to be left, to be resumed."""
        if self.progress.steps_completed % self.settings.gradient_accumulation:
            return False  # half of an update's gradients are in no checkpoint
        self.lockstep.decide()
        if self.lockstep.saves:
            self._announce_checkpoint()
        return self.lockstep.leaves

    def _announce_checkpoint(self) -> None:
        taken = set(self.requested_checkpoints)
        if self.progress.phase != "between epochs":
            self.lockstep.merge_outputs()
        self._announce("on_checkpoint")
        self.requested_checkpoints -= taken
        self.lockstep.saves = False
        if self.interrupted and not self.lockstep.leaves:
            # A signal has come since it was decided what to do here; it gets its checkpoint at the next step.
            self.request_checkpoint("latest")

    def _begin_epoch(self) -> None:
        self.progress.begin_epoch()
        self.train_outputs, self.validation_outputs = [], []
        self.lockstep.begin_phase()
        self.data_wait_seconds = 0.0
        self.history.start_epoch()

    def _complete_epoch(self) -> None:
        self.history.add(lr=self.lr)
        self.history.complete_epoch(self.progress.epochs_completed)
        self.progress.complete_epoch()
        self.validation_requested = False
        self.train_outputs, self.validation_outputs = [], []

    def _validation_is_due(self) -> bool:
        number = self.progress.epochs_completed + 1
        last = number >= self.settings.num_epochs or self.lockstep.completes
        return self._has_validation and (
            number % self.settings.validate_every_epochs == 0 or last or self.validation_requested
        )

    def _losses(self, batch: Any) -> tuple[dict[str, Tensor], Outputs]:
        return self._loss_weights.weighted(self.compute_losses(batch), self.global_iteration)

    def _set_learning_rate(self) -> None:
        lr = self.schedule(self.global_iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

    def _schedule(self, spec: Any, where: str, initial: float = 1.0) -> Callable[[int], float]:
        return build_schedule(
            spec,
            initial=initial,
            num_epochs=self.settings.num_epochs,
            iterations_per_epoch=self.settings.iterations_per_epoch,
            where=where,
        )

    def _seed_libraries(self, stream: str, number: int) -> None:
        # Each process draws its own numbers, for dropout and the like; rank 0 those of a single process.
        own = f"{stream}, rank {self.ranks.rank}" if self.ranks.rank else stream
        seed_libraries(self.settings.seed, own, number)

    def save_before_failing(self) -> None:
        """The data failed, not the training: save what was learned up to here, if that is possible."""
        if self.global_step > 0 and self.run_folder is not None:
            self.request_checkpoint("latest")
            self.lockstep.saves = True
            self._is_left_now()
            self.report("the data failed; when its fault is mended, --c continues from the last checkpoint")


def say_nothing(message: str) -> None:
    """What the other processes report: rank 0 says it for all."""
