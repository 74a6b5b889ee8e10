"""The look of the report, light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2127; --soft: #5d6673; --line: #e4e1d9; --wash: #f3f0e9;
  --c1: #1f5fbf; --c2: #c2571a; --c3: #7a7f87; --good: #177245; --bad: #b3261e;
  --good-wash: #e3f3e9; --bad-wash: #fbe7e4; --dot: 46%;
  --shadow: 0 1px 2px rgb(30 30 40 / .05), 0 6px 22px rgb(30 30 40 / .05);
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1c2026; --ink: #e8e6e1; --soft: #a0a7b1; --line: #323841; --wash: #252a31;
    --c1: #79aefc; --c2: #f0975b; --c3: #9aa1ab; --good: #6fd09b; --bad: #ff9187;
    --good-wash: #1b3627; --bad-wash: #432320; --dot: 62%; --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-font-smoothing: antialiased;
}
main { max-width: 1120px; margin: 0 auto; padding: 44px 24px 72px; }
h1, h2, h3, p { margin: 0; }
h2 { font-size: 1.4rem; line-height: 1.25; letter-spacing: -.012em; }
h3 { font-size: 1rem; }
section { margin-top: 60px; }
.lead { color: var(--soft); max-width: 72ch; margin-top: 8px; }
.small { color: var(--soft); font-size: .855rem; max-width: 90ch; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 14px; box-shadow: var(--shadow);
  padding: 20px 22px;
}
.card > .small:last-child { margin-top: 12px; }
.pair { display: grid; gap: 20px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.stack { display: grid; gap: 20px; align-content: start; }
section > .card, section > .pair, .stats { margin-top: 20px; }
.eyebrow { color: var(--soft); font-size: .9rem; display: flex; flex-wrap: wrap; gap: 6px 14px;
  align-items: center; }
.eyebrow b { color: var(--ink); letter-spacing: -.01em; }
.badge { border-radius: 99px; padding: 1px 11px; font-size: .82rem; font-weight: 600; }
.badge.good { background: var(--good-wash); color: var(--good); }
.badge.plain { background: var(--wash); color: var(--soft); }
.badge.bad { background: var(--bad-wash); color: var(--bad); }
.headline { display: grid; grid-template-columns: auto 1fr; gap: 12px 34px; align-items: center;
  margin-top: 20px; }
.headline .number {
  font-size: clamp(4rem, 11vw, 7.2rem); line-height: .95; font-weight: 700; letter-spacing: -.045em;
  color: var(--c1); font-variant-numeric: tabular-nums; white-space: nowrap;
}
.headline .number small { font-size: .42em; letter-spacing: 0; font-weight: 600; margin-left: .12em; }
.headline h1 { font-size: clamp(1.35rem, 3vw, 1.9rem); line-height: 1.22; letter-spacing: -.02em;
  text-wrap: balance; }
.headline p { color: var(--soft); margin-top: 8px; max-width: 58ch; }
.stats { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 200px), 1fr)); margin-top: 32px; }
.stats .card { padding: 15px 18px; }
.stats dt { color: var(--soft); font-size: .855rem; }
.stats dd { margin: 2px 0 0; font-size: 1.42rem; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.stats dd + dd { font-size: .855rem; font-weight: 400; letter-spacing: 0; color: var(--soft);
  line-height: 1.4; }
dl { margin: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 9px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: .855rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr:last-child td { border-bottom: 0; }
tr.best td { font-weight: 680; }
tr.best td:first-child { color: var(--c1); }
.scroll { overflow-x: auto; }
td .bar { display: inline-block; vertical-align: middle; width: 62px; height: 7px; border-radius: 4px;
  background: var(--wash); margin-right: 10px; overflow: hidden; }
td .bar i, .bars .bar i { display: block; height: 100%; background: var(--c3); border-radius: 4px; }
tr.best .bar i { background: var(--c1); }
.facts td { white-space: normal; overflow-wrap: anywhere; text-align: left; padding: 6px 0;
  vertical-align: top; font-size: .92rem; }
.facts td:first-child { color: var(--soft); width: 42%; padding-right: 16px; overflow-wrap: normal; }
.card h3 + * { margin-top: 12px; }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-size: 12.5px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.chart .axis-title { font-size: 12.5px; }
.chart .label { font-weight: 600; font-size: 13px; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .axis { stroke: var(--soft); stroke-width: 1; opacity: .6; }
.chart .line { fill: none; stroke-width: 2.4; stroke-linejoin: round; stroke-linecap: round; }
.chart .faint { fill: none; stroke-width: 1; opacity: .3; stroke-linejoin: round; }
.chart .dot { stroke: var(--card); stroke-width: 1.6; }
.chart .line.c1, .chart .faint.c1 { stroke: var(--c1);
  } .chart .line.c2, .chart .faint.c2 { stroke: var(--c2); }
.chart .dot.c1, .chart .label.c1 { fill: var(--c1); } .chart .dot.c2, .chart .label.c2 { fill: var(--c2); }
.strip { display: grid; gap: 8px; grid-template-columns: repeat(16, minmax(0, 1fr)); }
img.picture { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
.tile { display: flex; aspect-ratio: 1; width: 100%; border-radius: 6px; background: var(--wash);
  padding: 4px; align-items: center; justify-content: center; overflow: hidden;
  font-size: .68rem; line-height: 1.2; text-align: center; overflow-wrap: anywhere; }
.strip figure { margin: 0; }
.strip img.picture { border: 1px solid var(--line); }
.group + .group { margin-top: 30px; }
.group > p { color: var(--soft); font-size: .9rem; margin: 2px 0 12px; }
.hits { display: grid; grid-template-columns: minmax(70px, 86px) 20px repeat(8, minmax(0, 1fr));
  gap: 10px; align-items: end; padding: 9px 0; }
.hits + .hits { border-top: 1px solid var(--line); }
.hits figure { margin: 0; max-width: 86px; }
.hits figcaption { font-size: .78rem; line-height: 1.3; margin-top: 5px; text-align: center;
  font-weight: 600; white-space: nowrap; }
.hits .query img, .hits .query .tile { outline: 2px solid var(--ink); outline-offset: -1px; }
.hits .query figcaption { color: var(--soft); font-weight: 500; overflow: hidden; text-overflow: ellipsis; }
.hit.later { position: relative; }
.hit.later::before { content: ""; position: absolute; inset: 0 auto 0 -9px;
  border-left: 2px dotted var(--soft); }
.hits .arrow { align-self: center; text-align: center; color: var(--soft); padding-bottom: 20px; }
.hit img, .hit .tile { outline: 3px solid; outline-offset: -2px; }
.hit.right img, .hit.right .tile { outline-color: var(--good); } .hit.right figcaption { color: var(--good); }
.hit.wrong img, .hit.wrong .tile { outline-color: var(--bad); outline-style: dashed;
  } .hit.wrong figcaption { color: var(--bad); }
.drawn { display: grid; grid-template-columns: 132px 1fr; gap: 14px; align-items: center; padding: 7px 0; }
.drawn + .drawn { border-top: 1px solid var(--line); }
.drawn b, .drawn span { display: block; font-size: .9rem; line-height: 1.35; }
.drawn span { color: var(--soft); font-size: .78rem; }
.drawn > div:last-child { display: grid; grid-template-columns: repeat(16, minmax(0, 1fr)); gap: 6px; }
.drawn img.picture { border: 1px solid var(--line); }
.doubts { display: grid; gap: 20px 26px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
.doubt { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; }
.doubt figure { margin: 0; }
.doubt figure + figure img.picture { border: 1px solid var(--line); }
.doubt figure:first-child img { outline: 2px solid var(--ink); outline-offset: -1px; }
.doubt figure.planted:first-child img { outline: 3px dashed var(--bad); outline-offset: -2px; }
.doubt figcaption { color: var(--soft); font-size: .78rem; line-height: 1.3; margin-top: 5px;
  text-align: center; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 7px 14px;
  align-items: center; font-size: .92rem; font-variant-numeric: tabular-nums; }
.bars .share { text-align: right; }
.bars .bar { height: 10px; border-radius: 5px; background: var(--wash); overflow: hidden; }
.bars .bar i { background: var(--c1); } .bars .bar.other i { background: var(--c2); }
.map { display: block; width: 100%; height: auto; }
.map .dots { opacity: .78; stroke-width: 1.6; }
.map .ground { fill: var(--card); } .map .frame { fill: none; stroke-width: 2.4; }
.map line { stroke-width: 1.2; opacity: .7; }
.map text { font-size: 13px; font-weight: 600; fill: var(--ink); stroke: var(--card); stroke-width: 3.5px;
  paint-order: stroke; stroke-linejoin: round; }
.notes { margin: 14px 0 0; padding-left: 20px; color: var(--soft); font-size: .9rem; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 3px; background: var(--c1);
  margin-right: 5px; }
.key.other { background: var(--c2); }
footer { margin-top: 60px; padding-top: 18px; border-top: 1px solid var(--line); }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
@media (max-width: 760px) {
  main { padding: 26px 16px 48px; }
  section { margin-top: 44px; }
  .headline { grid-template-columns: 1fr; }
  .strip { grid-template-columns: repeat(8, minmax(0, 1fr)); }
  .drawn > div:last-child { grid-template-columns: repeat(8, minmax(0, 1fr)); }
  .drawn { grid-template-columns: 84px 1fr; }
  .hits { grid-template-columns: repeat(5, minmax(0, 1fr)); }
  .hits .arrow { display: none; }
  .card { padding: 16px; }
  td .bar { display: none; }
}
"""
