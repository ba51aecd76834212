"""What twins share and what an arm leaves behind."""

import pytest

from decondense.studies.twins import log_spaced, middle_layers, observation_steps


def test_steps_to_look_at():
    assert observation_steps(1) == [0, 1]
    assert observation_steps(20)[-3:] == [10, 15, 20]
    long = observation_steps(6000)
    assert long == sorted(set(long))
    assert long[-1] == 6000
    # condensation is worst there
    assert sum(20 <= step <= 60 for step in long) >= 5


def test_log_spaced_checkpoints():
    assert log_spaced(300, 0) == []
    assert log_spaced(300, 1) == [300]
    steps = log_spaced(300, 8)
    assert steps[0] == 0
    assert steps[-1] == 300
    assert len(steps) == 8
    assert log_spaced(3, 10) == [0, 1, 2, 3]


@pytest.mark.parametrize(("blocks", "middle"), [(6, [2, 3, 4]), (3, [1, 2]), (12, [4, 5, 6, 7, 8]), (1, [1]), (2, [1])])
def test_middle_layers(blocks, middle):
    values = [float(layer) for layer in range(blocks + 1)]
    assert middle_layers(values) == sum(middle) / len(middle)
