"""Prediction of many scans from files to files: what is there, what is done, what came of each."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.data.case_listing import RawCase
from framework.data.prediction_input import InputCases, cases_to_predict, read_case_to_predict
from framework.errors import CaseError, DatasetError, FoldwiseError
from framework.inference.checked_output import problem_of_output
from framework.inference.network_input import network_input
from framework.inference.pipeline import READING, CaseFailure, StopPrediction, predict_cases
from framework.inference.prediction_options import Observer, PredictionOptions
from framework.inference.prediction_report import PredictionReport
from framework.inference.prediction_target import PredictionTarget

if TYPE_CHECKING:
    from torch import Tensor

    from framework.inference.predictor import Predictor

Source = Path | str | Sequence[Path | str]


def predict_to_files(
    predictor: Predictor,
    source: Source | InputCases,
    target: Path | str,
    options: PredictionOptions,
    observer: Observer,
) -> PredictionReport:
    """Predict the cases of `source` (see `cases_to_predict`) into `target`, a folder or the file of a single case.

    Raises:
        FoldwiseError: nothing can be predicted: input, output or model cannot be used. What is wrong with single
            cases stands in the report.
    """
    model = predictor.model
    if options.previous_stage is not None and model.previous_stage is None:
        raise FoldwiseError(
            f"-prev_stage_predictions {options.previous_stage}: '{model.configuration.name}' is no second stage of a "
            "cascade. Leave it out."
        )
    if isinstance(source, InputCases):
        found = source
    else:
        found = _part(cases_to_predict(source, model.file_ending, len(model.channel_names)), options)
    place = PredictionTarget.at(target, model.file_ending)
    place.check(found.cases, source)
    if not options.overwrite:
        place.check_same_model(predictor.identity)
    place.write_records(model.dataset_json, model.plans.to_dict(), _arguments(predictor, source, place, options))
    report = PredictionReport(failures=_listing_failures(found))
    run = _FilePrediction(predictor, dict(found.cases), place, options, observer.one_at_a_time(), report)
    if not options.overwrite:
        run.keep_what_is_done()
    if model.previous_stage is not None and run.waiting:
        run.find_previous_stage()
    if run.waiting:
        run.predict()
    run.tidy_up()
    order = {case: place.label_file(case) for case in found.cases}
    report.files = {case: file for case, file in order.items() if case in report.files}
    return report


class _FilePrediction:
    """The steps of one call of `predict_to_files`."""

    def __init__(
        self,
        predictor: Predictor,
        cases: dict[str, RawCase],
        place: PredictionTarget,
        options: PredictionOptions,
        observer: Observer,
        report: PredictionReport,
    ) -> None:
        self.predictor, self.model = predictor, predictor.model
        self.cases, self.place, self.options, self.observer, self.outcome = cases, place, options, observer, report
        self.waiting = list(cases)
        self.previous_stage: Path | None = None
        self._own_previous_stage = False
        self.num_readers = options.readers
        self.num_writers = options.writers

    def keep_what_is_done(self) -> None:
        """Take the cases that an earlier run has completed off the list."""

        def problem(case: str) -> str | None:
            if self.observer.stop():
                return ""
            return problem_of_output(
                self.cases[case],
                self.place.output(case),
                self.place.file_ending,
                self.model.labels,
                self.model.plans.image_reader_writer,
                probabilities=self.options.save_probabilities,
                picture=self.place.picture_file(case) if self.options.draw_picture else None,
            )

        waiting = []
        with ThreadPoolExecutor(max(1, self.num_readers)) as threads:
            for number, (case, found) in enumerate(zip(self.waiting, threads.map(problem, self.waiting)), start=1):
                self.observer.progress("looking at what is done", number, len(self.waiting))
                if found is None:
                    self.outcome.files[case] = self.place.label_file(case)
                    self.outcome.kept.append(case)
                    continue
                waiting.append(case)
                if found:
                    self.observer.report(f"case '{case}' is predicted again: {found}.")
        self.observer.report(f"{len(self.outcome.kept)} of {len(self.waiting)} case(s) were predicted before.")
        self.waiting = waiting

    def find_previous_stage(self) -> None:
        """Say where the segmentations of the previous stage are; have them predicted if nobody has given any."""
        stage, name = self.model.previous_stage, self.model.configuration.name
        if self.options.previous_stage is not None:
            self.previous_stage = Path(self.options.previous_stage).expanduser()
            if not self.previous_stage.is_dir():
                raise DatasetError(
                    f"{self.previous_stage} is not a folder. Give the folder with the label images that '{stage}' "
                    "predicted for these scans."
                )
            return
        stem = self.place.name_of_single
        self.previous_stage = self.place.folder / (f".{stem}_{stage}" if stem else f"predicted_{stage}")
        self._own_previous_stage = True
        self.observer.report(f"'{name}' starts from the segmentations of '{stage}'. Predicting these first, into:")
        self.observer.report(f"  {self.previous_stage}")
        options = replace(self.options, save_probabilities=False, draw_picture=None, part=0, num_parts=1)
        cases = InputCases({case: self.cases[case] for case in self.waiting})
        report = predict_to_files(
            self.predictor.of_previous_stage(), cases, self.previous_stage, options, self.observer
        )
        failed = {failure.case for failure in report.failures}
        self.outcome.failures += [replace(each, step=f"{stage}, {each.step}") for each in report.failures]
        self.outcome.not_begun += report.not_begun
        self.waiting = [case for case in self.waiting if case not in failed and case not in report.not_begun]

    def predict(self) -> None:
        observer, waiting = self.observer, self.waiting
        self.place.remove_leftovers(waiting)
        several = len(waiting) > 1
        done = [0]

        def on_case(case: str, failure: CaseFailure | None) -> None:
            done[0] += 1
            if failure is None:
                file = self.outcome.files[case] = self.place.label_file(case)
                if observer.verbose:
                    observer.report(f"{done[0]}/{len(waiting)}  {file}")
            else:
                reason = failure.message.partition("\n")[0]
                observer.report(f"case '{case}' failed while {failure.step}: {reason}")
                if observer.verbose and failure.is_defect:
                    observer.report(failure.details)
            observer.progress(f"predicting with {self.model.configuration.name}", done[0], len(waiting))

        def network(case: str, data: np.ndarray) -> Tensor:
            def on_tile(finished: int, total: int) -> None:
                if observer.stop():
                    raise StopPrediction
                if not several:  # of a single case, show how far it is
                    observer.progress(f"predicting {case}", finished, total)

            return self.predictor.logits(data, on_tile).cpu()

        if several:
            observer.progress(f"predicting with {self.model.configuration.name}", 0, len(waiting))
        failures = predict_cases(
            waiting,
            self._read,
            network,
            self._write,
            num_readers=self.num_readers,
            num_writers=self.num_writers,
            prepare=self.predictor.load,
            stop=observer.stop,
            on_case=on_case,
        )
        self.outcome.failures += failures
        ended = {*self.outcome.files, *(failure.case for failure in failures)}
        self.outcome.not_begun += [case for case in waiting if case not in ended]

    def tidy_up(self) -> None:
        """Remove the previous stage's folder beside a single output file; beside many cases it is kept."""
        if self._own_previous_stage and self.place.name_of_single is not None and not self.outcome.not_begun:
            assert self.previous_stage is not None
            shutil.rmtree(self.previous_stage, ignore_errors=True)

    def _read(self, case: str) -> tuple[np.ndarray, tuple[dict[str, Any], np.ndarray | None]]:
        model = self.model
        previous = None
        if self.previous_stage is not None:
            previous = self.previous_stage / f"{case}{model.file_ending}"
            if not previous.is_file():
                raise CaseError(case, f"{previous} does not exist: what '{model.previous_stage}' predicted is needed.")
        image, segmentation, properties = read_case_to_predict(
            self.cases[case],
            model.labels,
            len(model.channel_names),
            model.plans.image_reader_writer,
            self.observer.report,
            previous,
        )
        data, properties = network_input(
            image, segmentation, properties, model.plans, model.configuration, model.labels
        )
        return data, (properties, None if self.options.draw_picture is None else image[0])

    def _write(self, case: str, logits: Tensor, extra: tuple[dict[str, Any], np.ndarray | None]) -> None:
        from framework.inference.export import export_prediction

        properties, scan = extra
        model, output = self.model, self.place.output(case)
        label_map = export_prediction(
            logits,
            properties,
            model.plans,
            model.configuration,
            model.labels,
            output,
            file_ending=self.place.file_ending,
            save_probabilities=self.options.save_probabilities,
        )
        if scan is not None:
            self._draw(case, scan, label_map, properties)

    def _draw(self, case: str, scan: np.ndarray, label_map: np.ndarray, properties: dict[str, Any]) -> None:
        assert self.options.draw_picture is not None
        labels, picture = self.model.labels, self.place.picture_file(case)
        names = dict(zip(labels.foreground_keys, labels.foreground_names))
        try:
            self.options.draw_picture(picture, scan, None, label_map, names, properties["spacing"], case, properties)
        except Exception as error:  # the segmentation is there, and worth more than its picture
            self.observer.report(f"warning: case '{case}': no picture was drawn: {type(error).__name__}: {error}")


def _part(found: InputCases, options: PredictionOptions) -> InputCases:
    names = sorted({*found.cases, *(case for problem in found.problems for case in problem.cases)})
    mine = set(names[options.part :: options.num_parts])
    problems = tuple(
        replace(problem, cases=chosen)
        for problem in found.problems
        if (chosen := tuple(case for case in problem.cases if case in mine))
    )
    return InputCases({name: case for name, case in found.cases.items() if name in mine}, problems)


def _listing_failures(found: InputCases) -> list[CaseFailure]:
    reasons: dict[str, list[str]] = {}
    for problem in found.problems:
        for case in problem.cases:
            reasons.setdefault(case, []).append(str(problem).removeprefix(f"case '{case}' "))
    messages = {case: "\n".join(lines) for case, lines in sorted(reasons.items())}
    return [CaseFailure(case, READING, text, CaseError(case, text), text) for case, text in messages.items()]


def _arguments(
    predictor: Predictor, source: Source | InputCases, place: PredictionTarget, options: PredictionOptions
) -> dict[str, Any]:
    """nnU-Net's record of arguments, and ours."""
    listed: Any = str(source)
    if isinstance(source, InputCases):
        listed = [[str(image) for image in case.images] for case in source.cases.values()]
    elif not isinstance(source, (str, Path)):
        listed = [str(path) for path in source]
    return {
        "list_of_lists_or_source_folder": listed,
        "output_folder_or_list_of_truncated_output_files": str(place.folder),
        "save_probabilities": options.save_probabilities,
        "overwrite": options.overwrite,
        "num_processes_preprocessing": options.readers,
        "num_processes_segmentation_export": options.writers,
        "folder_with_segs_from_prev_stage": None if options.previous_stage is None else str(options.previous_stage),
        "num_parts": options.num_parts,
        "part_id": options.part,
        "foldwise": {
            "model": predictor.identity,
            "model_folder": str(predictor.model.folder),
            "device": str(predictor.device_name),
            "pictures": options.draw_picture is not None,
        },
    }
