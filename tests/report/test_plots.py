from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from support import tales

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement.results import LossProfile, TaskChange, TokenHarm
from pytest_layerguard.report import charts


class TestScale:
    @pytest.mark.parametrize(
        ("values", "log"),
        [
            ([1.0, 90_000.0], True),
            ([2.0], True),
            ([1.0, 1.02], True),
            ([0.0, 0.0], False),
            ([-3.0, 4.0], False),
            ([], True),
            ([], False),
            ([math.inf, 3.0], True),
            ([1e-300, 1e300], True),
            ([5e-324], True),
        ],
    )
    def test_every_value_has_a_place_and_there_are_ticks(
        self, values: list[float], log: bool
    ) -> None:
        scale = charts.Scale.over(values, log=log)
        assert all(0 <= scale.at(value) <= 100 for value in [*values, -1.0, 0.0, math.inf, 1e300])
        assert 1 <= len(scale.ticks()) <= 12
        assert all(0 <= tick.at <= 100 for tick in scale.ticks())

    def test_order_is_kept(self) -> None:
        scale = charts.Scale.over([1.0, 100.0], log=True)
        assert scale.at(1) < scale.at(10) < scale.at(100)
        assert scale.at(10) == pytest.approx(50, abs=0.1)

    def test_a_log_axis_is_marked_at_decades(self) -> None:
        labels = [tick.label for tick in charts.Scale.over([1.0, 90_000.0], log=True).ticks()]
        assert labels == ["1", "10", "100", "1000", "10,000", "100,000"][: len(labels)]
        assert len(labels) >= 5

    def test_a_short_log_axis_has_more_than_its_ends(self) -> None:
        assert len(charts.Scale.over([1.0, 3.0], log=True).ticks()) >= 3


class TestRows:
    def test_a_row_says_where_it_lies(self) -> None:
        figure = charts.bar_chart(tales.judged(tales.SWEEP, tales.sweep()), "perplexity_ratio")
        assert figure is not None
        assert [row.zone for row in figure.rows] == ["catastrophic", "failed", "failed", "failed"]
        assert [mark.level for mark in figure.marks] == ["strict", "lenient", "catastrophic"]
        first = figure.rows[0]
        assert first.low is not None
        assert first.low < first.point < (first.high or 0)
        assert "catastrophic \u2265 10 met" in first.words
        assert "lenient \u2264 3 not met" in first.words

    def test_a_bar_is_about_the_arm_it_names(self) -> None:
        figure = charts.bar_chart(tales.judged(tales.ARMS, tales.arms()), "perplexity_ratio")
        assert figure is not None
        assert [row.zone for row in figure.rows] == ["lenient", "none"]
        assert [len(row.marks) for row in figure.rows] == [1, 0]
        assert [mark.label for mark in figure.marks] == ["lenient \u2264 3 (magnitude)"]

    def test_a_bar_of_one_text_is_named_after_it(self) -> None:
        figure = charts.bar_chart(tales.eye_test(), "perplexity_ratio")
        assert figure is not None
        assert figure.marks[0].label == "strict \u2264 1.1 (heldout)"

    def test_a_pair_has_one_gap(self) -> None:
        figure = charts.bar_chart(tales.judged(tales.PAIRS, tales.pairs()), "protocol_gap")
        assert figure is not None
        assert len(figure.rows) == 10
        assert (figure.rows[0].label, figure.rows[0].group) == ("0\u21941", None)
        assert figure.note == "nats per token, above 0 replacement harms more"

    def test_a_bound_has_no_upper_end(self) -> None:
        bound = {"perplexity_ratio": Interval(8.0, 8.0, math.inf)}
        found = tales.result(tales.variant("skip-0", "0", metrics=bound))
        figure = charts.bar_chart(tales.judged(tales.SWEEP, found), "perplexity_ratio")
        assert figure is not None
        assert figure.rows[0].endless
        assert figure.rows[0].interval == "or more"

    def test_an_interval_across_a_bar_is_undecided(self) -> None:
        found = tales.result(
            tales.variant("skip-0", "0", metrics={"perplexity_ratio": Interval(3, 2, 4)})
        )
        figure = charts.bar_chart(tales.judged(tales.SWEEP, found), "perplexity_ratio")
        assert figure is not None
        assert "lenient \u2264 3 undecided" in figure.rows[0].words

    def test_an_overflow_stays_on_the_figure(self) -> None:
        endless = {"perplexity_ratio": Interval.point(math.inf)}
        found = tales.result(
            tales.variant("skip-0", "0", metrics=endless), tales.variant("skip-1", "1")
        )
        figure = charts.bar_chart(tales.judged(tales.SWEEP, found), "perplexity_ratio")
        assert figure is not None
        assert figure.rows[0].beyond
        assert 90 < figure.rows[0].point <= 100

    def test_a_long_sweep_is_cut_and_says_so(self) -> None:
        found = tales.result(*(tales.variant(f"skip-{at}", str(at)) for at in range(500)))
        figure = charts.bar_chart(tales.judged(tales.SWEEP, found), "perplexity_ratio")
        assert figure is not None
        assert len(figure.rows) + figure.more == 500

    def test_a_metric_that_nobody_has(self) -> None:
        assert charts.bar_chart(tales.judged(tales.SWEEP, tales.sweep()), "kl") is None


class TestAnswers:
    def test_what_was_lost_is_left_of_zero_and_what_was_gained_right(self) -> None:
        (figure,) = charts.answer_charts(tales.questions())
        assert figure.task == "quiz"
        assert figure.note == "200 questions, of which the untouched model answers 150 rightly"
        first, second = figure.rows
        assert (first.label, first.p_value, second.p_value) == ("skip-0", "1e-30", "0.62")
        assert first.lost_at + first.lost_width == pytest.approx(figure.zero, abs=0.02)
        assert first.lost_width == pytest.approx(40 * second.lost_width, rel=0.05)
        assert first.gained_width == 0 < second.gained_width
        assert {"0", "50", "100"} <= {tick.label for tick in figure.ticks}

    def test_some_questions_are_shown_of_each_variant(self) -> None:
        (figure,) = charts.answer_charts(tales.questions())
        headings = {each.heading: len(each.examples) for each in figure.changed}
        assert headings == {
            "1 of 120 questions that skip-0 answers otherwise": 1,
            "2 of 4 questions that skip-1 answers otherwise": 2,
        }

    def test_nothing_lost_or_gained_is_drawn_as_such(self) -> None:
        same = tales.variant("skip-0", "0", tasks={"quiz": TaskChange(20, 15, 0, 0, 1.0)})
        (figure,) = charts.answer_charts(tales.judged(tales.SWEEP, tales.result(same)))
        assert (figure.rows[0].lost_width, figure.rows[0].gained_width) == (0, 0)
        assert [tick.label for tick in figure.ticks] == ["1", "0", "1"]
        assert figure.changed == ()

    def test_a_bet_without_tasks_has_none(self) -> None:
        assert list(charts.answer_charts(tales.every()["sweep"])) == []


class TestHeat:
    def test_each_protocol_has_a_panel_and_their_gap_too(self) -> None:
        figure = charts.heat_map(tales.pairs())
        assert figure is not None
        assert [panel.title for panel in figure.panels[:2]] == ["replacement", "interchange"]
        assert len(figure.panels) == 3
        assert all(len(panel.cells) == 10 for panel in figure.panels)
        assert [cell.best for cell in figure.panels[1].cells].count(True) == 1
        assert "worse in 10 of 10" in figure.panels[2].best

    def test_shades_follow_the_values(self) -> None:
        figure = charts.heat_map(tales.pairs())
        assert figure is not None
        shades = {(cell.column, cell.row): int(cell.shade[1:]) for cell in figure.panels[1].cells}
        assert shades[0, 1] < shades[0, 2] < shades[0, 4]

    def test_a_few_pairs_are_rows_instead(self) -> None:
        assert charts.heat_map(tales.pairs(layers=3)) is None
        assert charts.heat_map(tales.sweep()) is None


class TestLines:
    def test_a_trajectory_has_a_line_for_each_variant(self) -> None:
        story = tales.judged(tales.TRAJECTORY, tales.trajectory())
        figure = charts.trajectory_chart(story, "perplexity_ratio")
        assert figure is not None
        assert [line.name for line in figure.lines] == ["skip-0", "skip-1", "skip-2"]
        assert [tick.label for tick in figure.xticks] == ["before", "after"]
        names = sorted(line.label_y for line in figure.lines)
        assert all(below - above >= 12 for above, below in itertools.pairwise(names))

    def test_one_checkpoint_is_no_trajectory(self) -> None:
        story = tales.judged(tales.SWEEP, tales.sweep())
        assert charts.trajectory_chart(story, "perplexity_ratio") is None

    def test_arms_that_sweep_the_same_layers_have_a_line_each(self) -> None:
        figure = charts.layer_chart(tales.by_branch(), "perplexity_ratio")
        assert figure is not None
        assert figure.title == "perplexity ratio by layer"
        assert [line.name for line in figure.lines] == ["attention", "feed_forward", "whole"]
        assert [tick.label for tick in figure.xticks] == ["0", "1", "2", "3"]
        assert figure.lines[0].points[1].label.startswith("layer 1: 1.5 [")
        assert [mark.label for mark in figure.marks] == [
            "strict \u2264 1.1 (attention)",
            "lenient \u2264 1.5 (attention)",
            "catastrophic \u2265 10 (whole)",
        ]

    def test_many_layers_are_numbered_where_there_is_room(self) -> None:
        found = tales.result(
            *(
                tales.variant(f"skip-{at}", str(at), arm=arm)
                for arm in ("attention", "whole")
                for at in range(64)
            )
        )
        figure = charts.layer_chart(tales.judged(tales.BRANCHES, found), "perplexity_ratio")
        assert figure is not None
        assert [tick.label for tick in figure.xticks] == [str(at) for at in range(0, 64, 6)]
        assert len(figure.lines[0].points) == 64

    @pytest.mark.parametrize("kind", ["sweep", "arms", "pairs", "trajectory", "training", "error"])
    def test_other_bets_have_no_lines_over_layers(self, kind: str) -> None:
        assert charts.layer_chart(tales.every()[kind], "perplexity_ratio") is None

    def test_the_tail_of_kl_has_a_line_for_each_variant(self) -> None:
        figure = charts.tail_chart(tales.every()["sweep"])
        assert figure is not None
        assert [line.name for line in figure.lines] == ["skip-2", "skip-1", "skip-3", "skip-0"]
        assert [tick.label for tick in figure.xticks] == [
            "50",
            "75",
            "90",
            "95",
            "99",
            "99.9",
            "max",
        ]
        assert figure.lines[0].points[4].label == "99 %: 2.4"
        assert figure.summary == (
            "skip-2: half of the tokens up to 0.4, one in a hundred above 2.4, at most 4; "
            "skip-0: half of the tokens up to 8, one in a hundred above 48, at most 80"
        )

    @pytest.mark.parametrize("tail", [{}, dict.fromkeys(tales.tail(1), 0.0)])
    def test_a_variant_that_changed_no_token_has_no_tail(self, tail: dict[str, float]) -> None:
        found = tales.result(tales.variant("skip-0", "0", kl_tail=tail))
        assert charts.tail_chart(tales.judged(tales.SWEEP, found)) is None

    def test_an_endless_tail_stays_on_the_figure(self) -> None:
        endless = tales.tail(1) | {"max": math.inf}
        found = tales.result(tales.variant("skip-0", "0", kl_tail=endless))
        figure = charts.tail_chart(tales.judged(tales.SWEEP, found))
        assert figure is not None
        assert figure.lines[0].points[-1].label == "max: inf"
        assert 0 <= figure.lines[0].points[-1].y < figure.lines[0].points[-2].y

    def test_training_is_a_curve(self) -> None:
        figure = charts.training_chart(tales.training().variants[0], "averaged", matched=False)
        assert figure is not None
        assert len(figure.lines[0].points) == 20
        assert figure.lines[0].points[0].y < figure.lines[0].points[-1].y

    def test_a_training_says_whose_it_is_and_what_its_loss_is(self) -> None:
        (variant,) = tales.training().variants
        nats = charts.training_chart(variant, "averaged", matched=False)
        distance = charts.training_chart(variant, "averaged", matched=True)
        assert nats is not None
        assert distance is not None
        assert nats.title == "training loss by step, averaged"
        assert nats.unit == "nats per token"
        assert distance.unit == "distance to the original's output"

    def test_a_long_training_is_thinned_but_keeps_its_end(self) -> None:
        losses = [[step, 1 / step] for step in range(1, 10_001)]
        trained = tales.variant("a", diagnostics={"training_loss": losses})
        figure = charts.training_chart(trained, "a", matched=False)
        assert figure is not None
        assert len(figure.lines[0].points) <= 161
        assert figure.lines[0].points[-1].label.startswith("step 10000")

    @pytest.mark.parametrize("losses", [[], [[1, 2.0]], [[1, math.nan], [2, math.inf]]])
    def test_nothing_to_draw(self, losses: list[list[float]]) -> None:
        trained = tales.variant("a", diagnostics={"training_loss": losses})
        assert charts.training_chart(trained, "a", matched=False) is None


class TestProfile:
    def test_columns_stand_on_zero(self) -> None:
        figure = charts.profile_chart(tales.profile())
        assert figure is not None
        assert len(figure.columns) == 15
        assert figure.columns[0].harm
        assert not figure.columns[-1].harm
        assert figure.tokens[0].token == "\u2423the"
        assert figure.tokens[0].share == 100

    @pytest.mark.parametrize("height", [0.3, 1.0, 2.02, 2.2, 7.0])
    def test_no_number_is_cut_off_at_the_top(self, height: float) -> None:
        figure = charts.profile_chart(tales.profile(height))
        assert figure is not None
        assert all(tick.at >= 12 for tick in figure.yticks)

    @pytest.mark.parametrize("height", [-3.0, -0.03, 0.002, 0.3, 1.0, 2.2, 7.0])
    def test_zero_and_another_number_are_reported(self, height: float) -> None:
        figure = charts.profile_chart(tales.profile(height))
        assert figure is not None
        assert "0" in {tick.label for tick in figure.yticks}
        assert 2 <= len(figure.yticks) <= 4

    def test_a_long_window_is_put_together(self) -> None:
        figure = charts.profile_chart(LossProfile(tuple(1.0 for _ in range(4096)), ()))
        assert figure is not None
        assert len(figure.columns) <= 96
        assert figure.tokens == ()

    def test_a_small_harm_is_not_rounded_to_nothing(self) -> None:
        tokens = (TokenHarm("a", 4, 0.00031), TokenHarm("b", 4, -0.0002))
        figure = charts.profile_chart(LossProfile((0.1,), tokens))
        assert figure is not None
        assert [(each.token, each.difference) for each in figure.tokens] == [("a", "+0.0003")]

    @pytest.mark.parametrize("profile", [None, LossProfile((None, None), ()), LossProfile((), ())])
    def test_nothing_to_draw(self, profile: LossProfile | None) -> None:
        assert charts.profile_chart(profile) is None


class TestStrips:
    def test_bets_share_one_axis(self) -> None:
        stories = [*tales.every().values()]
        drawn, ticks = charts.overview_strips(stories)
        assert len(drawn) == len(stories)
        assert ticks
        assert drawn[0] is not None
        assert drawn[0].words == "4 \u2013 80"
        assert drawn[-1] is None

    def test_what_is_far_beyond_the_others_is_the_end_of_the_axis(self) -> None:
        sweep = tales.sweep()
        far = replace(
            sweep.variants[0], metrics={"perplexity_ratio": Interval(90_000.0, 80_000.0, 1e5)}
        )
        bet = tales.judged(tales.SWEEP, replace(sweep, variants=(far, *sweep.variants[1:])))
        (strip,), ticks = charts.overview_strips([bet])
        assert strip is not None
        assert strip.beyond == "catastrophic"
        assert len(strip.dots) == len(sweep.variants) - 1
        assert ticks[-1].label == "100"
        chart = charts.bar_chart(bet, "perplexity_ratio")
        assert chart is not None
        (row,) = (row for row in chart.rows if row.beyond)
        assert (row.low, row.high) == (None, None)
        assert chart.ticks[-1].label == "100"

    def test_none_was_measured(self) -> None:
        drawn, _ = charts.overview_strips([tales.every()["error"]])
        assert drawn == (None,)
