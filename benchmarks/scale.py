"""A thousand agents against ten, and the memory they take."""

from __future__ import annotations

import fedrl.launch
from benchmarks.measure import Figure, emit, peak_gigabytes, seconds


def main() -> None:
    fedrl.launch.configure_jax()
    from statistics import median

    from benchmarks.workload import federation_of

    few, many = federation_of(10, 100), federation_of(1000, 1)
    few(), many()
    ratio = median(seconds(few) / seconds(many) for _ in range(5))
    emit(
        Figure("K = 1,000 over K = 10, steps/s", ratio, 0.9, "x"),
        Figure("peak memory with K = 1,000 and K = 10 in one process", peak_gigabytes(), 1.3, "GB", at_least=False),
    )


if __name__ == "__main__":
    main()
