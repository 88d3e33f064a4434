#!/usr/bin/env python3
"""docs/gpu.md, its figure and the README's paragraph say what the results of GPUs say, and no more.

    python3 tests/gpu_page.py

The page of the checkout is checked, and the program that writes it, on results that are made up: tests/gpu_page.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PAGE = ROOT / "docs" / "gpu" / "page.py"
MADE_UP = TESTS / "gpu_page"
NOTHING_RAN = "No GPU has run this code yet"


class Folders(unittest.TestCase):
    """Results that a test may change, and a README and documents that the program may write."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.data, self.out = Path(folder.name) / "data", Path(folder.name) / "out"
        self.data.mkdir()
        self.out.mkdir()
        shutil.copy(ROOT / "README.md", self.out)
        self.page, self.figure = self.out / "docs" / "gpu.md", self.out / "docs" / "gpu" / "figure.svg"

    def made_up(self, *stages):
        for stage in stages or ("right", "fast", "deep"):
            shutil.copy(MADE_UP / f"{stage}.jsonl", self.data)

    def run_page(self, *arguments, seed="0"):
        command = [sys.executable, PAGE, "--data", self.data, "--out", self.out, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed})

    def written(self, seed="0"):
        run = self.run_page(seed=seed)
        self.assertEqual((run.returncode, run.stdout, run.stderr), (0, "", ""))
        return self.page.read_text()

    def refused(self, *arguments):
        run = self.run_page(*arguments)
        self.assertEqual(run.returncode, 1)
        self.assertNotIn("Traceback", run.stderr)
        return run.stderr

    def edit(self, stage, number, **changes):
        """Changes keys of a line, counted from 1; a key is removed where the change is `...`."""
        path = self.data / f"{stage}.jsonl"
        lines = path.read_text().splitlines()
        row = json.loads(lines[number - 1]) | changes
        lines[number - 1] = json.dumps({key: value for key, value in row.items() if value is not ...})
        path.write_text("\n".join(lines) + "\n")

    def append(self, stage, line):
        with (self.data / f"{stage}.jsonl").open("a") as file:
            file.write(line + "\n")

    def rows(self, page, *cells):
        """The rows of tables that begin with these cells."""
        rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in page.splitlines() if line.startswith("| ")]
        return [row for row in rows if row[: len(cells)] == list(cells)]


class Checkout(unittest.TestCase):
    def test_page_figure_and_readme_are_what_the_results_make_of_them(self):
        run = subprocess.run([sys.executable, PAGE, "--check"], capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""))

    def test_no_made_up_result_is_among_the_documents(self):
        for path in PAGE.parent.glob("*.jsonl"):
            self.assertNotIn("made up", path.read_text())


class WithoutResults(Folders):
    def test_nothing_is_claimed(self):
        page = self.written()
        self.assertIn(NOTHING_RAN, page)
        self.assertIn("bash .ci/gpu pack", page)
        self.assertNotIn("figure.svg", page)
        self.assertIn(NOTHING_RAN, (self.out / "README.md").read_text())
        for verdict in ("| within", "| outside", ", within", ", outside"):
            self.assertNotIn(verdict, page)
        for stated in self.rows(page, "H100"):
            self.assertEqual(stated[4:], ["not measured", ""])

    def test_a_figure_that_is_left_goes(self):
        self.written()
        self.figure.parent.mkdir(parents=True)
        self.figure.write_text("<svg/>")
        self.assertIn("figure.svg: nothing was measured that it could show", self.refused("--check"))
        self.assertTrue(self.figure.exists())
        self.written()
        self.assertFalse(self.figure.exists())

    def test_checks_alone_make_no_figure(self):
        self.made_up("right")
        page = self.written()
        self.assertIn("No time was measured.", page)
        self.assertIn("`right` (`fast`, `deep` did not run)", page)
        self.assertFalse(self.figure.exists())
        self.assertNotIn("figure.svg", page)


class WithResults(Folders):
    def setUp(self):
        super().setUp()
        self.made_up()

    def test_what_ran(self):
        page = self.written()
        self.assertNotIn(NOTHING_RAN, page)
        for fact in ("NVIDIA H100 80GB HBM3", "580.95.05", "`0123456789ab`", "2026-11-26", "| NVRTC | 13.4 |", "79.6 GiB"):
            self.assertIn(fact, page)
        self.assertEqual(page.count("\n## NVIDIA H100"), 1)  # three files, one card

    def test_checks(self):
        page = self.written()
        self.assertIn("**Checks: 2 checks passed, 1 failed: `cuda_graph`.** Passed: `doctor`, `cuda_parity`.", page)
        self.assertIn("| `cuda_graph` | 101 | 4 | panicked at \\| 'CUDA error 906' \\<x\\> |", page)
        self.assertIn("`cuda_large` (no time left)", page)
        readme = " ".join((self.out / "README.md").read_text().split())
        self.assertNotIn(NOTHING_RAN, readme)
        self.assertIn("2 checks passed, 1 failed: `cuda_graph`; AdamW over GPT-2 in 1.22 ms, 96 % of the memory's", readme)

    def test_steps(self):
        page = self.written()
        adamw, clipping = self.rows(page, "AdamW"), self.rows(page, "AdamW, clipping")
        # Rounds of 1.20, 1.22 and 1.30 ms: 28 × 124439808 bytes in 1.22 ms are 2856 GB/s. Theirs 1.40, 1.41, 1.42 ms;
        # 1.41 / 1.22 = 1.156. The ceiling is 2856 / .96 = 2975 GB/s, of which 28 × 124439808 bytes in 1.41 ms are 83 %.
        self.assertIn(["AdamW", "fadam", "1.22", "1.2–1.3, 3 rounds", "28", "2856", "96 %", "1"], adamw)
        self.assertIn(["AdamW", "PyTorch 2.15.0, fused", "1.41", "1.4–1.42, 3 rounds", "", "2471", "83 %", "1.16"], adamw)
        # Its graph beside ours: 1.38 / 1.19 = 1.160.
        self.assertIn(["AdamW", "PyTorch 2.15.0, graph", "1.38", "one round", "", "2525", "85 %", "1.16"], adamw)
        self.assertIn(["AdamW", "llm.c, one element per thread", "1.525", "one round", "", "2285", "77 %", "1.25"], adamw)
        # Of the 32 bytes that ours needs: 32 × 124439808 / 2.1 ms = 1896 GB/s, of 2655 / .93 = 2855.
        needed = ["AdamW, clipping", "PyTorch 2.15.0, fused", "2.1", "one round", "", "1896", "66 %", "1.40"]
        self.assertIn(needed, clipping)

    def test_a_peer_stands_beside_its_own_job(self):
        page = self.written()
        # PyTorch rounds to nearest: .93 / .62 = 1.5, and it is not compared with stochastic rounding.
        beside = self.rows(page, "AdamW, all bf16, rounding to nearest", "PyTorch 2.15.0, fused")
        self.assertEqual([row[-1] for row in beside], ["1.50"])
        self.assertEqual(self.rows(page, "AdamW, all bf16, stochastic rounding", "PyTorch 2.15.0, fused"), [])

    def test_stochastic_rounding_is_no_job_of_a_peer(self):
        self.edit("fast", 15, rounding="stochastic")  # ours to nearest
        page = self.written()
        self.assertEqual([row[-1] for row in self.rows(page, "AdamW, all bf16", "PyTorch 2.15.0, fused")], [""])

    def test_a_peer_without_ours_is_shown(self):
        self.edit("fast", 5, algorithm="adam")  # the second round of PyTorch's
        alone = self.rows(self.written(), "Adam", "PyTorch 2.15.0, fused")
        self.assertEqual(alone, [["Adam", "PyTorch 2.15.0, fused", "1.4", "one round", "", "2489", "", ""]])

    def test_streams_and_kernels(self):
        page = self.written()
        self.assertIn(["GPT-2", "AdamW", "1.22", "1.21", "1.19", "40", "12", "3.5"], self.rows(page, "GPT-2", "AdamW"))
        # Rounds of 4, 5 and 6 µs, and of 1151, 1152 and 1153: 5 / 1157 = .4 %.
        self.assertIn(["GPT-2", "AdamW", "`adam_finalize`", "5", "0.4 %"], self.rows(page, "GPT-2", "AdamW"))
        self.assertIn(["GPT-2", "AdamW", "`adam`", "1152", "99.6 %"], self.rows(page, "GPT-2", "AdamW"))

    def test_ceilings_and_profiles(self):
        page = self.written()
        self.assertIn("| copy | 268 435 456 | 8 | 0.72 | 2983 |", page)
        self.assertIn("| kernel | case | Duration | DRAM Throughput | Registers |", page)
        self.assertIn("| `norm_partial` | AdamW, f32 | 0.18 ms |  | 36 |", page)

    def verdict(self, page, what):
        (row,) = self.rows(page, "H100", what)
        return row[2], *row[4:]

    def test_verdicts(self):
        page = self.written()
        self.assertEqual(self.verdict(page, "AdamW, GPT-2"), ("1.18–1.25", "1.22", "within"))
        self.assertEqual(
            self.verdict(page, "AdamW, clipping and finite check, GPT-2"), ("1.38–1.45", "1.5", "outside")
        )
        # 3.10 − 2.60 ms; .54 ± 20 % is predicted.
        adds = "what clipping and finite check add to AdamW, one tensor of 2^28"
        self.assertEqual(self.verdict(page, adds), ("0.432–0.648", "0.5", "within"))
        self.assertEqual(self.verdict(page, "`norm_partial` of it"), ("0.288–0.432", "0.37", "within"))
        self.assertEqual(self.verdict(page, "`adam_finalize` of it"), ("0.144–0.216", "0.06", "outside"))
        self.assertEqual(self.verdict(page, "AdamW, one million elements"), ("0.03–0.04", "0.02", "outside"))
        # 9.3 ps × 124439808 = 1.157 ms, ± 20 %; of the H100 alone, the second of four cards.
        (modelled,) = [row for row in self.rows(page, "AdamW") if row[1].startswith("1.59")]
        self.assertEqual(modelled[2], "0.926–1.39: 1.22, within")
        for i in (1, 3, 4):
            self.assertTrue(modelled[i].endswith("not measured"))

    def test_a_verdict_follows_the_measurement(self):
        for line in (2, 4, 6):  # the three rounds of AdamW
            self.edit("fast", line, median_ms=1.26)
        self.assertEqual(self.verdict(self.written(), "AdamW, GPT-2"), ("1.18–1.25", "1.26", "outside"))

    def test_kappa_is_predicted_where_it_is_finite(self):
        what = "FAdam, κ finite but not acting, clipping and finite check"
        for kappa, said in ((None, "not measured"), (1e9, "1.5, within")):
            self.edit("fast", 12, algorithm="fadam", weight_decay=0.0, kappa=kappa)  # AdamW with clipping
            ((_, _, h100, _, _),) = self.rows(self.written(), what)
            self.assertEqual(h100, f"1.06–1.59: {said}")

    def test_predictions_are_of_one_kind_of_card(self):
        for name in ("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GH200 480GB"):
            for stage in ("right", "fast", "deep"):
                self.edit(stage, 1, card=name)
            page = self.written()
            self.assertIn(name, page)
            self.assertEqual(self.verdict(page, "AdamW, GPT-2"), ("1.18–1.25", "not measured", ""))

    def test_another_card_has_its_own_section_and_predictions(self):
        for path in list(self.data.glob("*.jsonl")):
            shutil.copy(path, self.data / f"h200_{path.name}")
            self.edit(f"h200_{path.stem}", 1, card="NVIDIA H200")
        page = self.written()
        self.assertEqual(page.count("\n## NVIDIA H"), 2)
        self.assertLess(page.index("\n## NVIDIA H100"), page.index("\n## NVIDIA H200"))
        (modelled,) = [row for row in self.rows(page, "AdamW") if row[1].startswith("1.59")]
        # 6.5 ps × 124439808 = .809 ms.
        self.assertEqual(modelled[2:4], ["0.926–1.39: 1.22, within", "0.647–0.971: 1.22, outside"])

    def test_the_figure(self):
        self.written()
        svg = xml.etree.ElementTree.parse(self.figure).getroot()
        texts = ["".join(node.itertext()) for node in svg.iter("{http://www.w3.org/2000/svg}text")]
        for text in ("GPT-2", "one tensor of 2^28", "AdamW, clipping", "96 %   2856 GB/s   1.22 ms", "83 %   2471 GB/s   1.41 ms"):
            self.assertIn(text, texts)
        self.assertNotIn("PyTorch 2.15.0, foreach", texts)

    def test_the_same_bytes_each_time(self):
        first = self.written(seed="1"), self.figure.read_bytes()
        self.assertEqual(first, (self.written(seed="2"), self.figure.read_bytes()))


class Check(Folders):
    def setUp(self):
        super().setUp()
        self.made_up()
        self.written()

    def test_passes_on_what_was_written(self):
        self.assertEqual(self.run_page("--check").returncode, 0)

    def test_a_number_that_was_edited_is_found(self):
        for path, old, new in (
            (self.page, "| 1.16 |", "| 1.61 |"),
            (self.figure, "2856 GB/s", "3856 GB/s"),
            (self.out / "README.md", "1 failed", "0 failed"),
        ):
            kept = path.read_text()
            self.assertIn(old, kept)
            path.write_text(kept.replace(old, new, 1))
            said = self.refused("--check")
            self.assertIn(f"{path}: not what the data say", said)
            self.assertIn(new, said)
            self.assertIn(old, said)
            path.write_text(kept)

    def test_a_file_that_is_missing_is_named(self):
        self.figure.unlink()
        self.assertIn(f"{self.figure}: missing", self.refused("--check"))

    def test_a_result_that_is_not_on_the_page_is_found(self):
        self.append("right", '{"what": "left_out", "name": "cuda_faults", "why": "no time left"}')
        self.assertIn(f"{self.page}: not what the data say", self.refused("--check"))

    def test_writes_nothing(self):
        self.page.write_text("edited")
        self.refused("--check")
        self.assertEqual(self.page.read_text(), "edited")

    def test_a_readme_without_the_place_is_refused(self):
        (self.out / "README.md").write_text("# fadam\n")
        self.assertIn("README.md: no `<!-- gpu", self.refused())


class Refused(Folders):
    """With file and line."""

    def setUp(self):
        super().setUp()
        self.made_up()

    def refuses(self, stage, line, words):
        said = self.refused()
        self.assertIn(f"{self.data / stage}.jsonl:{line}: ", said)
        self.assertIn(words, said)
        self.assertFalse(self.page.exists())

    def test_an_emulated_driver(self):
        self.edit("fast", 1, emulated=True)
        self.refuses("fast", 1, "of the emulated driver")

    def test_a_line_that_is_not_json(self):
        self.append("deep", '{"what": "ncu", ')
        self.refuses("deep", 4, "not JSON")

    def test_a_line_that_is_not_utf8(self):
        path = self.data / "deep.jsonl"
        path.write_bytes(path.read_bytes() + b'"\xff"\n')
        self.refuses("deep", 4, "not JSON")

    def test_a_line_that_is_no_object(self):
        self.append("deep", "7")
        self.refuses("deep", 4, "not a JSON object")

    def test_a_number_that_is_none(self):
        self.append("right", '{"what": "check", "name": "a", "ok": true, "rc": 0, "seconds": NaN, "line": ""}')
        self.refuses("right", 6, "NaN is no number")

    def test_a_kind_that_is_unknown(self):
        for what, shown in (('"guess"', "'guess'"), ("[]", "[]"), ("null", "None")):
            self.made_up("right")
            self.append("right", f'{{"what": {what}}}')
            self.refuses("right", 6, f'"what" is {shown}')

    def test_a_library_that_is_unknown(self):
        self.edit("fast", 2, library="apex")
        self.refuses("fast", 2, "unknown library 'apex'")

    def test_a_key_that_is_missing(self):
        self.edit("fast", 2, median_ms=...)
        self.refuses("fast", 2, 'step without "median_ms"')

    def test_a_value_of_the_wrong_kind(self):
        for key, value in (("median_ms", 0), ("median_ms", "1.2"), ("clip", 1), ("stream", "mine"), ("kernels", [{"name": "adam"}])):
            self.made_up("fast")
            self.edit("fast", 2, **{key: value})
            self.refuses("fast", 2, f'step with "{key}" of {value!r}')

    def test_a_file_without_a_machine(self):
        path = self.data / "right.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
        self.refuses("right", 1, "the first line, and no other, describes the machine")

    def test_two_machines_in_a_file(self):
        self.append("right", (self.data / "right.jsonl").read_text().splitlines()[0])
        self.refuses("right", 6, "the first line, and no other, describes the machine")

    def test_an_empty_file(self):
        (self.data / "fast.jsonl").write_text("")
        self.refuses("fast", 1, "not JSON")

    def test_results_alone_are_read_too(self):
        """As CI does with those of an emulated driver."""
        path = self.data / "fast.jsonl"
        command = [sys.executable, PAGE.parent / "results.py", path]
        self.edit("fast", 1, emulated=True)
        self.assertEqual(subprocess.run(command).returncode, 0)
        self.edit("fast", 2, share=...)
        run = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (1, f'{path}:2: step without "share"\n'))

    def test_a_key_that_is_unknown_is_not_refused(self):
        self.edit("fast", 2, clocks="1980 MHz")
        self.written()


if __name__ == "__main__":
    unittest.main()
