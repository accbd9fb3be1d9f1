// Live: asks the dashboard for news, and shows it without losing what the reader has chosen.

const LIVE_SECONDS = 2;

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

async function fetched(name) {
  const answer = await fetch(name, { cache: "no-store" });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function follow() {
  for (;;) {
    await pause(LIVE_SECONDS);
    if (document.hidden) continue;
    try {
      const news = await fetched("state.json");
      // How far the run is belongs to the data of the same version, and to no other.
      if (news.version !== data.data_version) update(await fetched("data.json"));
      else data = { ...data, state: news.state, run: news.run };
      drawHeader();
      drawNodes();
      $("live").textContent = "live";
    } catch (error) {
      $("live").textContent = `no longer live (${error.message}); shown is what was last heard`;
    }
  }
}

/** Do `work`, and leave the heading or figure that is read where it is in the window. */
function keepingPlace(work) {
  const read = [...document.querySelectorAll("h2, figure")].find(
    (each) => each.getBoundingClientRect().bottom > 0,
  );
  const before = read?.getBoundingClientRect().top;
  work();
  if (scrollY > 0 && read?.isConnected) scrollBy(0, read.getBoundingClientRect().top - before);
}

/** Show new data: figures that differ in their rows alone keep their zoom and emphasis. */
function update(payload) {
  const before = new Map(cards.map((card) => [card.figure.name, card]));
  const unchanged = (figure) => {
    const card = before.get(figure.name);
    return JSON.stringify(card?.figure) === JSON.stringify(figure) ? card : null;
  };
  data = unpackAll(payload);
  keepingPlace(() => {
    drawPage();
    drawFigures(unchanged);
  });
}
