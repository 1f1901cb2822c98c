/** Actual shares of both sides, a chart a set. */
function drawShares() {
  const place = at("shares");
  for (const set of DATA.sets) {
    const bars = set.mixture.flatMap((line) => [["A", line.a], ["B", line.b]].filter(([, one]) => one)
      .map(([side, one]) => ({source: line.source, side, share: one.actual})));
    place.append(chart(set.name, set.mixture.map((line) =>
      `${line.source}: ${["a", "b"].map((side) => line[side] ? `${(100 * line[side].actual).toFixed(1)} %` : "not there").join(" in A, ")} in B`).join("; ") + ".", {
      width: columnOf(place), height: 34 + 34 * set.mixture.length, marginLeft: 110, marginRight: 40,
      x: {percent: true, label: "share, %", grid: true}, y: {label: null, domain: ["A", "B"], axis: null},
      fy: {label: null, domain: set.mixture.map((line) => line.source)}, color: colours(SOURCES), facet: {marginRight: 40},
      marks: [
        Plot.barX(bars, {x: "share", y: "side", fy: "source", fill: "source", fillOpacity: (bar) => bar.side === "A" ? 0.4 : 1}),
        Plot.text(bars, {x: "share", y: "side", fy: "source", text: "side", textAnchor: "start", dx: 4, fontSize: 10}),
        Plot.ruleX([0]),
      ],
    }));
  }
}

drawShares();
if (DATA.samples.length) setUpSamples();
