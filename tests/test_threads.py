import pytest

from reidlab.threads import Pace


class Machine:
    """Cores of which other programs hold some: a core that is shared serves each of its threads half of the time.

    The threads of a step wait for each other, spinning: as soon as one shares a core, the step takes `drag` times as
    long as it would on the cores that are free; 2.3 was measured of OSNet on two cores, 18 elsewhere.
    """

    def __init__(self, cores: int, drag: float = 2.3, a_step: float = 0.2):
        self.cores, self.drag, self.a_step = cores, drag, a_step
        self.now = self.used = self.work = 0.0
        self.others, self.count = 0, cores
        self.counts: list[int] = []

    def rate(self, count: int) -> float:
        """Images a second."""
        free = self.cores - self.others
        return min(count, free) ** 0.9 / self.a_step / (self.drag if count > free else 1)

    def best(self) -> float:
        return max(self.rate(count) for count in range(1, self.cores + 1))

    def step(self, pace: Pace) -> None:
        pace.begin()
        seconds = 1 / self.rate(self.count)
        sharing = max(0, self.count - (self.cores - self.others))
        self.now, self.used = self.now + seconds, self.used + seconds * (self.count - sharing / 2)
        self.counts.append(self.count)
        pace.end(1)

    def run(self, pace: Pace, seconds: float) -> float:
        """The work done in a time, as a share of what the best number of threads would have done."""
        begun, self.counts, steps = self.now, [], 0
        while self.now < begun + seconds:
            self.step(pace)
            steps += 1
        return steps / (self.now - begun) / self.best()


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def make(cores: int, **options) -> tuple[Machine, Pace]:
    machine = Machine(cores, **options)
    return machine, Pace(
        lambda: machine.count, lambda n: setattr(machine, "count", n), lambda: machine.now, lambda: machine.used
    )


@pytest.mark.parametrize("cores", [1, 2, 8, 64])
def test_an_idle_machine_sees_no_trial(cores):
    machine, pace = make(cores)
    with pace.kept():
        machine.run(pace, 120)
    assert set(machine.counts) == {cores}


@pytest.mark.parametrize(("cores", "others"), [(2, 1), (4, 1), (8, 1), (8, 3), (64, 62)])
@pytest.mark.parametrize("drag", [1.5, 2.3, 18.0])
@pytest.mark.parametrize("a_step", [0.05, 0.5, 4.0])
def test_threads_make_room_for_others_and_come_back(cores, others, drag, a_step):
    machine, pace = make(cores, drag=drag, a_step=a_step)
    with pace.kept():
        machine.run(pace, 20)
        machine.others = others
        machine.run(pace, 50 * drag * max(a_step, 0.25))  # slow steps, and trials
        assert machine.run(pace, 200 * drag * max(a_step, 0.25)) > 0.9
        machine.others = 0
        machine.run(pace, 300 * drag * max(a_step, 0.25))
        assert machine.run(pace, 20) > 0.97
    assert machine.count == cores


def test_the_first_trial_of_more_threads_waits_as_long_as_its_steps_are_known_to_take():
    machine, pace = make(2, drag=18, a_step=0.5)
    machine.others = 1
    with pace.kept():
        while machine.count == 2:
            machine.step(pace)
        assert machine.run(pace, 250) > 0.97


def test_threads_stay_where_fewer_are_no_faster():
    machine, pace = make(2, drag=1.02)
    machine.others = 1
    with pace.kept():
        assert machine.run(pace, 600) > 0.96
    assert machine.counts.count(1) < 0.05 * len(machine.counts)


def test_a_loop_goes_on_as_the_last_one_ended_and_torch_has_its_threads_between():
    machine, pace = make(2)
    machine.others = 1
    with pace.kept():
        machine.run(pace, 10)
        assert machine.count == 1
    assert machine.count == 2
    with pace.kept():
        assert machine.count == 1
        with pace.kept():
            assert machine.count == 1
        assert machine.count == 1


def test_threads_that_were_set_are_kept(monkeypatch):
    machine, pace = make(2)
    machine.others = 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pace.kept():
        machine.run(pace, 30)
    assert set(machine.counts) == {2}


def test_a_number_that_is_fixed_is_kept():
    machine, pace = make(4)
    machine.others = 2
    with pace.fixed(3), pace.kept():
        machine.run(pace, 30)
    assert set(machine.counts) == {3} and machine.count == 4
    with pace.fixed(None), pace.kept():
        machine.run(pace, 30)
    assert machine.counts[0] == 4 and machine.counts[-1] == 2


def test_other_work_than_before_is_no_slowness():
    """Batches that grow take longer, and need no other threads."""
    machine, pace = make(2)
    with pace.kept():
        for scale in range(1, 30):
            machine.a_step = 0.1 * scale
            machine.run(pace, 5)
            assert set(machine.counts) == {2}


def test_each_batch_of_a_loop_is_a_step():
    machine, pace = make(2)
    machine.others = 1
    for batch in pace.over([{"image": [0] * 8}] * 60):
        assert batch == {"image": [0] * 8}
        seconds = len(batch["image"]) / machine.rate(machine.count) / 8
        sharing = max(0, machine.count - 1)
        machine.now, machine.used = machine.now + seconds, machine.used + seconds * (machine.count - sharing / 2)
        machine.counts.append(machine.count)
    assert machine.counts[0] == 2 and machine.counts[-1] == 1 and machine.count == 2
