"""Tables of the documentation are those of the committed results."""

import json
from pathlib import Path

import numpy as np

from benchmarks import moe_speed

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = [
    (scenario, kind)
    for scenario in ("QBF-2011", "MAXSAT12-PMS", "CSP-2010", "CPMP-2015")
    for kind in ("par10", "deadlines")
] + [("routellm-mmlu", "average"), ("routellm-gsm8k", "average")]


def rows_of(page: str, first: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of the table whose header begins with a word."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |")) + 2
    rows = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    return rows


def test_closed_gaps_of_the_learners():
    tables = json.loads((RESULTS / "real_tables.json").read_text())["tables"]
    embedded = json.loads((RESULTS / "learners.json").read_text())
    gaps = [tables[name]["closed_gaps"][kind] for name, kind in COLUMNS]
    gaps += [embedded["stability"]["over_seeds"][mode] for mode in ("hard", "average")]
    quoted = rows_of("learners.md", "learner | QBF-2011 PAR10")
    assert len(quoted) == 14
    for name, cells in quoted.items():
        learner = name.split("`")[1]
        means = [values["paceline" if learner == "grpo" else learner]["mean"] for values in gaps]
        expected = [f"{value:.2f}" for value in [*means, float(np.mean(means))]]
        shown = [cell.replace("-.", "-0.") if cell.startswith("-") else f"0{cell}" for cell in cells]
        assert shown == expected, learner


def test_the_ablation_of_inputs():
    variants = json.loads((RESULTS / "inputs_ablation.json").read_text())["variants"]
    quoted = rows_of("inputs.md", "option | hard budgets")
    assert set(quoted) == set(variants) - {"default"}
    for name, cells in quoted.items():
        for mode, cell in zip(("hard", "average"), cells, strict=False):
            value = variants[name][mode]
            low, high = value["over_default_ci"]
            assert cell == f"{100 * value['over_default']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", name


def test_what_a_decision_costs():
    measured = json.loads((RESULTS / "decision_overhead.json").read_text())
    quoted = rows_of("decision_cost.md", "contender | median, us")
    assert {"paceline", "paceline onnx", "eager torch, the same network"} <= set(quoted)
    for name, cells in quoted.items():
        found = measured["decisions"][name]
        assert cells == [f"{found['p50_us']:.1f}", f"{found['p99_us']:.0f}"], name
    for name, cells in rows_of("decision_cost.md", "contender | 1").items():
        speeds = measured["batches"]["contexts_per_second"][name]
        assert cells == [f"{speeds[size]:,.0f}" for size in ("1", "8", "64", "512", "4096")], name
    page = " ".join((ROOT / "docs" / "decision_cost.md").read_text().split())
    batches = measured["batches"]["bars"]
    over = [batches[size]["to_limit"]["ratio"]["median"] for size in ("64", "512", "4096")]
    same = [f"{bars['rivals']['eager torch, the same network']['median']:.2f}" for bars in batches.values()]
    small = {
        size: bars["rivals"]["stable-baselines3 PPO, masked distribution"]["median"]
        for size, bars in batches.items()
    }
    bars, whole = measured["bars"], json.loads((RESULTS / "end_to_end.json").read_text())
    low, high = whole["bar"]["added_share_interval"]
    split = whole["overview_split"]["added_ms"]
    parts = {
        name: whole["breakdown_ms"][f"{name}_ms"]["median"] for name in ("features", "workloads", "decision")
    }
    for told in (
        f"takes {over[0]:.2f}, {over[1]:.2f} and {over[2]:.2f} times as long for 64, 512 and 4096 requests",
        f"takes {', '.join(same[:-1])} and {same[-1]} times as long",
        f"decides {1 / small['4096']:.1f} times as many",
        f"takes {measured['limit']['us']:.1f} us by the fastest reader",
        f"{bars['to_limit']['ratio']:.2f} times that",
        f"{bars['to_fastest_rival']['ratio']['median']:.2f} times our time. A linear",
        f"takes {bars['to_fastest_of_all']['ratio']['median']:.2f} times our time",
        f"are {whole['bar']['added_ms']:.2f} ms, {100 * whole['bar']['added_share']:.2f} % "
        f"[{100 * low:.2f}, {100 * high:.2f}]",
        f"{whole['overall']['added_ms']['median']:.2f} ms to the bare",
        f"adds {split['median']:.2f} ms [{split['interval'][0]:.2f}, {split['interval'][1]:.2f}]",
        f"latency of {whole['full_latency_ms']:.1f} ms",
        f"takes {1000 * parts['decision']:.0f} us, on another",
        ", ".join(f"{name} {value:.3f}" for name, value in parts.items()),
    ):
        assert told in page, told


def test_what_loading_costs():
    measured = json.loads((RESULTS / "decision_memory.json").read_text())
    quoted = rows_of("decision_cost.md", "backend | load, ms")
    assert set(quoted) == set(measured["load"]) == {"default", "first", "native", "numpy", "onnx", "torch"}
    for name, cells in quoted.items():
        found = measured["load"][name]
        peak = found["memory_mib"]["first_decision"]["peak_mib"]
        assert cells == [f"{found['load_ms']['p50']}", f"{found['first_decision_ms']['p50']}", f"{peak}"], (
            name
        )
    page = " ".join((ROOT / "docs" / "decision_cost.md").read_text().split())
    one, four = (measured["growth"][f"default, {threads} threads"]["grown_mib"] for threads in (1, 4))
    for told in (
        f"another {measured['load']['default']['import_ms']['p50']:.0f} ms",
        f"{one} MiB on one thread and {four} MiB on four",
        f"takes {measured['directory_bytes'] / 1e6:.2f} MB",
    ):
        assert told in page, told


def test_the_speed_of_experts():
    measured = json.loads((RESULTS / "moe_speed.json").read_text())
    page = (ROOT / "docs" / "molmoe_1b.md").read_text()
    assert "\n".join(moe_speed.table(measured)) in page
