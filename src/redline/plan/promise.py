"""What predict.py forecasts of a step, as the promises that a contract holds steps against (contract.py). Open `promiser`."""

from __future__ import annotations

from collections.abc import Callable

from redline.hardware.ceilings import Ceilings
from redline.hardware.machine import Machine
from redline.plan import predict
from redline.plan.contract import Expected, Predictor
from redline.plan.place import here
from redline.plan.precision import kv_format, weight_format
from redline.plan.roofline import StepWork
from redline.plan.split import Layout
from redline.shapes import ModelShape

Promiser = Callable[[Ceilings], Predictor]
"""Makes the promises of a machine that was measured."""


def promiser(shape: ModelShape, machine: Machine, device: str, dtype: str) -> Promiser:
    """For a model in one type on `cpu` or `cuda:N`. A promise takes some hundred microseconds; contracts keep them."""

    def measured(ceilings: Ceilings) -> Predictor:
        forecast = predict.Predictor(shape, here(machine, device, ceilings), weight_format(dtype), kv_format(dtype), Layout())
        source = "; ".join(reason for reason, _ in forecast.doubts)

        def promise(work: StepWork) -> Expected:
            return Expected(forecast.of_work(work).seconds.value, forecast.error, source)

        return promise

    return measured
