"""What must hold of every conversion: it computes what its encodings imply, and that is near the user's model."""

from __future__ import annotations

import numpy as np
from conversion import computed_in_float, float_tensors, implied, optimized, run_session, session

ROUNDED_ONCE = 0.52  # steps: half a step, and what float32 adds to it
ROUNDED_ALONG_A_CHAIN = 2.1  # steps: a tie that falls the other way is one step, in each of three operators
FAITHFUL_DB = 12.0  # signal to noise of 8 bits against the user's model; a wrong formula has less than 0


def check_integer(converted, bench, output_format):
    """Nothing is computed in float: not in the written graph, or for QDQ not in what the runtime makes of it."""
    if output_format == "integer":
        assert float_tensors(converted.model) == set()
    else:
        assert computed_in_float(optimized(converted.model, bench.folder)) == []


def check_steps(converted, most):
    """The result is what the encodings imply, within a number of steps of the output, optimized or not."""
    feeds = converted.feeds[:3]
    for feed, expected in zip(feeds, implied(converted, feeds), strict=True):
        for optimize in (False, True):
            found = converted.run(feed, optimize=optimize)
            assert list(found) == [o.name for o in converted.float_model.graph.output]
            for name, (real, step) in expected.items():
                check_near(found[name], real, step, most)


def check_near(found, real, step, most):
    assert found.shape == real.shape
    if real.dtype != np.float32:
        # indices of the largest of numbers that were rounded in another order: one in a hundred may be another's
        assert np.mean(found != real) <= (0.01 if real.size >= 100 else 0.0), (found, real)
        return
    step = step or float(np.ptp(real)) / 255 or 1.0
    np.testing.assert_allclose(found / step, real / step, rtol=1e-5, atol=most)


def check_faithful(converted):
    """The result is near the user's own model; what is not a float (indices, shapes) has been compared already."""
    loaded = session(converted.float_model)
    for feed in converted.feeds[:3]:
        expected, found = run_session(loaded, feed), converted.run(feed)
        for name, real in expected.items():
            if real.dtype == np.float32:
                noise = float(np.square(found[name] - real, dtype=np.float64).mean())
                signal = float(np.square(real, dtype=np.float64).mean())
                assert noise <= signal * 10 ** (-FAITHFUL_DB / 10) + 1e-12, (name, real, found[name])
