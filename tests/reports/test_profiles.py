"""Performance profiles and means count right answers only."""

import numpy as np
import pandas as pd

from projlab_reports import profiles


def answers(**seconds):
    """One row a variant and problem: its seconds, negative where the answer is wrong."""
    return pd.DataFrame(
        [
            {
                "content_hash": str(i),
                "dtype": "float64",
                "check": "projection",
                "variant": variant,
                "setup_s_median": 0.0,
                "project_s_median": abs(taken),
                "forward_error": 1e-15 if taken > 0 else 1.0,
                "stable_bound": 1e-14,
            }
            for variant, all_taken in seconds.items()
            for i, taken in enumerate(all_taken)
        ]
    )


def test_a_profile_counts_right_answers_only():
    # Nobody is right on the last problem; b's quick answer to the third is wrong.
    frame = answers(a=(1.0, 1.0, 1.0, -1.0), b=(4.0, 0.5, -0.1, -1.0))
    times = profiles.seconds(frame, profiles.PROJECT)
    assert len(times) == 3
    profile = profiles.profile(times, [1.0, 2.0, 4.0])
    np.testing.assert_allclose(profile["a"], [2 / 3, 1, 1])
    np.testing.assert_allclose(profile["b"], [1 / 3, 1 / 3, 2 / 3])
    assert list(profiles.shown(times)["right at all"]) == ["100 %", "67 %"]


def test_means_are_taken_where_all_that_are_compared_are_right():
    frame = answers(a=(1.0, 1.0, 100.0), b=(4.0, 1.0, -1.0), rare=(1e-6, -1.0, -1.0))
    means = profiles.means(frame).set_index("variant")
    assert list(means["right on"]) == ["3 of 3", "2 of 3", "1 of 3"]
    assert list(means["over"]) == [2, 2, 0]
    assert list(means[profiles.PROJECT]) == ["1 s", "2 s", "–"]
