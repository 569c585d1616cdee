"""Each check beyond the answer for x₀ sees what it is for, of variants and of subjects."""

import pytest
import torch

from projlab_validation import surroundings
from projlab_validation.problems import catalogue
from tests.validation.asked import PROBLEMS, judged
from tests.validation.planted import sabotage, verdicts_of

BUFFERS: dict[object, torch.Tensor] = {}
"""By shape and dtype, the one that is returned each time."""

SEEN_BY = {
    "idempotence": lambda P, x: P(x) + 1e-9 * P.tangent(x),
    "feasible_point": lambda P, x: P(x) * (1 + 1e-9),
    "row_scaling": lambda P, x: P(x) + 1e-9 * P.constraint.A[0] / P.constraint.A[0].norm() ** 2,
    "further_points": lambda P, x: P(x) if x[0] < -1 else P(x) + 1e-9,
    "stacked_points": lambda P, x: P(x) if x.dim() == 1 else P(x) * (1 + 1e-9),
    "non_expansiveness": lambda P, x: P(x) + P.tangent(x),
    "batched": lambda P, x: P(x) * (1 + 1e-9) if P.constraint.batch else P(x),
    "strided_points": lambda P, x: P(x) if x.is_contiguous() else P(x) + 1e-9,
    "surroundings": lambda P, x: P(x) if torch.get_num_threads() == 1 else P(x) + 1e-9,
    "state_kept": lambda P, x: torch.set_default_dtype(torch.float64) or P(x),
    "same_bits": lambda P, x: P(x) + 1e-15 * torch.rand_like(x),
    "inputs_kept": lambda P, x: P.project_(x),
    "answers_kept": lambda P, x: BUFFERS.setdefault((x.shape, x.dtype), P(x)).copy_(P(x)),
}


@pytest.fixture(autouse=True)
def default_dtype_kept():
    """What is planted sets it in every call, and the check puts it back after its own."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("check", SEEN_BY)
def test_each_check_of_a_variant_sees_what_it_is_for(check, monkeypatch):
    sabotage(monkeypatch, SEEN_BY[check])
    assert verdicts_of("spectra_1_10x20", check) == {"fail"}


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("refuses_a_stack", "stacked_points"),
        ("first_of_the_stack", "stacked_points"),
        ("keeps_the_first_answer", "further_points"),
        ("recognises_A_by_its_address", "column_permutation"),
        ("changes_x_in_place", "inputs_kept"),
        ("wrong_from_the_fourth_point_on", "stacked_points"),
        ("wrong_on_many_points", "stacked_points"),
        ("takes_points_for_contiguous", "strided_points"),
        ("takes_b_for_contiguous", "strided_points"),
        ("works_in_the_default_dtype", "surroundings"),
        ("wrong_without_gradients", "surroundings"),
        ("wrong_on_several_threads", "surroundings"),
        ("seeds_the_generator", "state_kept"),
        ("leaves_gradients_off", "state_kept"),
        ("returns_nan_for_a_feasible_x", "feasible_point"),
        ("pinv_of_unscaled_rows", "row_scaling"),
    ],
)
def test_each_check_of_a_subject_sees_what_it_is_for(name, check):
    frames = [judged(name, p) for p in PROBLEMS if p.name in ("shapes_plain", "article_1",
              "starts_feasible", "starts_answer_zero", "scaling_parallel_rows",
              "spectra_1e6_10x20", "spectra_1e3_10x20")]  # fmt: skip
    assert any((f["check"].eq(check) & f["verdict"].eq("fail")).any() for f in frames)


@pytest.mark.parametrize(
    "name", ["scaling_rows_1e150", "scaling_all_1e150", "scaling_all_1e_minus_150",
             "starts_huge_1e150", "starts_tiny_1e_minus_150"],
)  # fmt: skip
def test_an_error_is_seen_at_either_end_of_the_range(name):
    (problem,) = catalogue(names=[name])
    verdicts = judged("rounds_the_answer_to_float32_digits", problem).set_index("check")["verdict"]
    for check in ("projection", "idempotence", "further_points", "stacked_points"):
        assert verdicts[check] == "fail", check


def test_rows_are_scaled_only_as_far_as_their_plain_norms_stay_numbers():
    def checks(name, dtype="float64"):
        (problem,) = catalogue(names=[name], dtypes=[dtype])
        return set(judged("row_scaled_lstsq", problem)["check"])

    assert "row_scaling" not in checks("scaling_rows_1e150")
    assert "row_scaling" in checks("scaling_rows_1e8")
    assert "row_scaling" in checks("scaling_rows_1e8", "float32")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("sets_the_default_dtype", "default dtype"),
        ("leaves_gradients_off", "grad mode"),
        ("sets_the_threads", "threads"),
        ("seeds_the_generator", "the seed of a global generator"),
        ("seeds_numpy", "the seed of a global generator"),
        ("seeds_python", "the seed of a global generator"),
        ("silences_warnings", "warning filters"),
        ("sets_an_environment_variable", "environment variables"),
        ("lowers_the_precision_of_products", "float32 matmul precision"),
        ("flushes_denormals", "denormals"),
        ("silences_numpy", "numpy's error handling"),
        ("leaves_the_folder", "working directory"),
    ],
)
def test_what_a_subject_changes_around_it_is_named_and_put_back(name, named):
    before = surroundings.state()
    (problem,) = catalogue(names=["shapes_plain"], dtypes=["float64"])
    row = judged(name, problem).set_index("check").loc["state_kept"]
    assert (row["verdict"], named in row["why"]) == ("fail", True)
    assert surroundings.state() == before


@pytest.mark.parametrize(
    ("name", "check", "says"),
    [
        ("returns_one_buffer", "answers_kept", "of answers were changed by later calls"),
        ("returns_two_buffers_by_turns", "answers_kept", "of answers were changed by later calls"),
        ("returns_a_buffer_of_numpy", "answers_kept", "of answers were changed by later calls"),
        ("spoils_the_answer_before", "answers_kept", "of answers were changed by later calls"),
        ("changes_x_in_place", "inputs_kept", "of x, A and b were changed in place"),
    ],
)
def test_an_answer_that_a_later_call_changes_fails_in_this_alone(name, check, says):
    for problem in catalogue(names=["shapes_plain", "starts_feasible"]):
        frame = judged(name, problem)
        wrong = frame[frame["verdict"] == "fail"]
        assert wrong["check"].tolist() == [check]
        assert says in wrong["why"].iloc[0]


def test_an_answer_in_another_dtype_is_a_failure_that_says_so():
    (problem,) = catalogue(names=["shapes_plain"], dtypes=["float32"])
    row = judged("answers_in_float64", problem).iloc[0]
    assert (row["verdict"], row["why"]) == (
        "fail",
        "the answer is torch.float64, x torch.float32",
    )


def test_the_seed_of_a_problem_decides_how_it_is_asked():
    def asked(problem):
        frame = judged("row_scaled_lstsq", problem).set_index("check")["reason"]
        return tuple(frame[["stacked_points", "strided_points", "surroundings"]])

    several = [p for p in PROBLEMS if p.group == "shapes" and p.dtype == "float64"][:6]
    ways = [asked(p) for p in several]
    assert ways[:2] == [asked(p) for p in several[:2]]
    assert all(len(set(of_one_kind)) > 3 for of_one_kind in zip(*ways, strict=True))
