"""Values that are kept once they were computed."""

import threading
from concurrent.futures import ThreadPoolExecutor

from xgradcam.lending.keeping import kept


class Counting:
    """Counts how often its value is computed."""

    def __init__(self):
        self.count = 0

    @kept
    def value(self):
        """A number."""
        self.count += 1
        return self.count


def test_a_value_is_computed_once_for_each_object():
    one, other = Counting(), Counting()
    assert (one.value, one.value, other.value) == (1, 1, 1)
    assert vars(one) == {"count": 1, "value": 1}


def test_threads_compute_the_values_of_several_objects_at_once():
    met = threading.Barrier(2)

    class Meeting:
        @kept
        def value(self):
            return met.wait(20)

    with ThreadPoolExecutor(2) as threads:
        assert sorted(threads.map(lambda one: one.value, [Meeting(), Meeting()])) == [0, 1]
