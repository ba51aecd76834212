// Draws every plot of the page and follows the theme, the width and the printer. Reads only the JSON of the page itself.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const plots = [...document.querySelectorAll(".chart")];
  let printing = false;

  const isDark = () => !printing && (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);

  // Figures come in light colours; each says what its colours become in the dark. Only values of colours are looked at.
  const recolour = (node, dark, isColour) => {
    if (typeof node === "string") return isColour && Object.hasOwn(dark, node) ? dark[node] : node;
    if (Array.isArray(node)) return node.map((item) => recolour(item, dark, isColour));
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(
      Object.entries(node).map(([key, value]) => [key, recolour(value, dark, /colou?r(scale)?$/.test(key))]),
    );
  };

  const config = {
    responsive: true,
    displaylogo: false,
    // Without a pointer that hovers the bar would always lie over the lines.
    displayModeBar: touch ? false : "hover",
    // These and no others: plotly has more, one of which sends the figure to its makers' service.
    modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };

  const draw = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Change to light colours" : "Change to dark colours");
    return Promise.all(
      plots.map((plot) => {
        const { figure, dark } = figures[Number(plot.dataset.figure)];
        const { data, layout } = isDark() ? recolour(figure, dark, false) : structuredClone(figure);
        // A finger that drags over a plot means to scroll the page.
        layout.dragmode = touch ? false : "zoom";
        return Plotly.react(plot, data, layout, config);
      }),
    );
  };

  const print = (starts) => {
    printing = starts;
    root.classList.toggle("printing", starts);
    draw();
    plots.forEach((plot) => Plotly.Plots.resize(plot));
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    draw();
  });
  systemDark.addEventListener("change", draw);
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  // A plot inside closed details has no width until they open.
  document.querySelectorAll("details").forEach((details) =>
    details.addEventListener("toggle", () => details.querySelectorAll(".chart").forEach((plot) => Plotly.Plots.resize(plot))),
  );
  draw().then(() => {
    root.dataset.ready = "true";
  });
})();
