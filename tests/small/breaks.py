"""How trainings are broken off in the tests."""


class StopAfter:
    """In the place of a `StopFlag`: asks for an end when it was looked at so many times, once after every step."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def request(self, *_: object) -> None:
        self.left = 0


class Killed(BaseException):
    """As a kill without warning: nothing in the code catches it."""
