"""An observer of a coordinator that keeps what it is told."""

from fedrl.network.observer import Observer


class Noting(Observer):
    """Keeps the clock of a run, and the sentences that were told with the words of their events."""

    def __init__(self):
        self.clock, self.texts, self.events = None, [], []

    def follow(self, clock):
        self.clock = clock

    def tell(self, event, text, agent=None, name="", job=None):
        self.texts.append(text)
        self.events.append((event, agent, name, job))
