// Header: did everything run?

function drawHeader() {
  const { lineages, iterations, failures, runs } = data;
  const count = (name) => distinct(lineages.map((line) => line[name])).length;
  const done = lineages.filter((line) => line.state === "done").length;
  const keys = groupBy(iterations, (row) => row.key);
  const seconds = sum([...keys.values()].map(([row]) => row.train_seconds + row.prune_seconds));
  const wall = runs.map((run) => run.seconds).filter((each) => each !== null);
  $("state").textContent = stateText(done);
  $("state").dataset.state = data.state;
  const subject = [
    ...distinct(lineages.map((line) => line.network)).slice(0, 4),
    `${plural(count("curve"), "method")} × ${plural(count("seed"), "seed")}`,
    runs.length ? `last run ${moment(runs.at(-1).started_at)} UTC` : "never run",
    `page made ${moment(data.made_at)} UTC`,
  ];
  const spans = subject.flatMap((part, place) => [place ? " · " : "", h("span", {}, part)]);
  $("subject").replaceChildren(...spans);
  const numbers = [
    ["lineages complete", `${done} of ${lineages.length}`],
    ["iterations committed", format("count", keys.size)],
    ["failed", format("count", failures.length), failures.length ? "state-failed" : ""],
    ["wall time", wall.length ? duration(sum(wall)) : MISSING],
    ["device time", duration(seconds)],
    ["in the store", size(data.bytes)],
  ];
  $("numbers").replaceChildren(
    ...numbers.map(([name, value, style = ""]) =>
      h("div", {}, h("dt", {}, name), h("dd", { class: style }, value)),
    ),
  );
  drawAlerts();
}

function stateText(done) {
  const all = data.lineages.length;
  if (data.state === "finished") return "finished";
  if (data.state === "running") {
    const { counts, eta_seconds: eta, together } = data.run;
    const left = eta === null ? "" : `, ${duration(eta)} left`;
    const runs = together ? ` in ${together} runs` : "";
    return `running: ${counts.iterations} of ${counts.to_train} iterations${runs}${left}`;
  }
  if (data.state === "died") return "the run has died without saying so; run it again to resume";
  return `incomplete: ${all - done} of ${plural(all, "lineage")} to go`;
}

function drawAlerts() {
  const damaged = data.left_out.map(({ label, seed, iteration, damage }) =>
    h("li", {}, `${label}, seed ${seed}, iteration ${iteration}: ${damage.join("; ")}`),
  );
  const records = data.damage.map((text) =>
    h("p", { class: "wrong" }, `Damaged record, taken as missing: ${text}`),
  );
  const count = plural(damaged.length, "damaged iteration");
  const iterations = h(
    "details",
    { class: "wrong", open: damaged.length < 4 },
    h("summary", {}, `${count} left out; run the sweep again to mend`),
    h("ul", {}, damaged),
  );
  fill("alerts", records, damaged.length ? iterations : null);
}
