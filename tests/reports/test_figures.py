import itertools

import numpy as np
from matplotlib.colors import to_rgb

from projlab_reports import figures

LOWERED = {after: chr(before) for before, after in figures.RAISED.items()}


def drawn(summary, dtype):
    frame = summary.verdicts
    frame = frame[(frame["dtype"] == dtype) & frame["forward_error"].notna()]
    return figures.forward_error_figure(summary, frame, dtype).axes


def legend(axes):
    return {text.get_text() for text in axes.get_legend().get_texts()}


def test_variants_stand_beside_oracles_on_the_same_logarithmic_axes(summary):
    variants, oracles = drawn(summary, "float64")
    assert legend(variants) == set(summary.variants)
    assert legend(oracles) == {"lstsq", "clarabel default", "clarabel tight", "osqp tight"}
    for axes in (variants, oracles):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlim() == variants.get_xlim()
        assert axes.get_ylim() == variants.get_ylim()
    assert "κ₂" in variants.get_xlabel()
    assert "‖x − x*‖" in variants.get_ylabel()


def test_theory_is_drawn_as_u_kappa_u_and_kappa_squared_u(summary):
    for dtype, u in (("float64", 2.0**-53), ("float32", 2.0**-24)):
        axes = drawn(summary, dtype)[0]
        lines = {t.get_text(): line for t, line in zip(axes.texts, axes.lines[-3:], strict=True)}
        for label, power in (("u", 0), ("κu", 1), ("κ²u", 2)):
            kappa, error = lines[label].get_data()
            np.testing.assert_allclose(error, kappa**power * u)


def test_points_are_the_records_on_the_scale_of_the_theory(summary):
    axes = drawn(summary, "float64")[0]
    (qr,) = [line for line in axes.lines if line.get_label() == "qr"]
    # 1e-14 relative to ‖x*‖ = 1, over ‖x₀‖ + ‖x₀ − x*‖ = 1.5
    np.testing.assert_allclose(qr.get_data(), ([1e3], [1e-14 / 1.5]))


def luminance(colour):
    return np.dot((0.2126, 0.7152, 0.0722), to_rgb(colour))


def test_no_two_of_the_first_points_share_colour_lightness_and_marker():
    assert len(set(figures.MARKERS)) == len(figures.MARKERS) == len(figures.PALETTE)
    for a, b in itertools.combinations(figures.PALETTE[:4], 2):
        assert abs(luminance(a) - luminance(b)) > 0.01


def test_ticks_of_logarithmic_axes_are_labelled_in_plain_text_with_powers_of_ten(summary):
    axes = drawn(summary, "float64")[0]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        labels = [axis.get_major_formatter()(tick, 0) for tick in axis.get_majorticklocs()]
        at = [10.0 ** int(label[2:].translate(LOWERED)) for label in labels]
        np.testing.assert_allclose(at, axis.get_majorticklocs())
        assert sum(low <= tick <= high for tick in at) >= 3
    assert figures.power(1e-16, 0) == "10⁻¹⁶"
    assert figures.power(3.0, 0) == "3"
