// What the page does without asking the server: labels as chips, and the regions of a picture.

function showExamples(element, props, picked) {
  for (const button of element.querySelectorAll("button"))
    button.addEventListener("click", () => {
      props.value = button.name;
      picked();
    });
}

function editLabels(element, props, watch, edited) {
  const list = element.querySelector("ul");
  const input = element.querySelector("input");

  function draw() {
    list.replaceChildren(
      ...props.value.map((label, i) => {
        const chip = make("li", {}, ...named({ name: label, colour: props.colours[i] }));
        const remove = make("button", { ariaLabel: `Remove ${label}` }, "×");
        remove.addEventListener("click", () => {
          change(props.value.filter((other) => other !== label));
          (list.querySelectorAll("button")[i] ?? input).focus();
        });
        chip.append(remove);
        return chip;
      }),
    );
  }

  function change(labels) {
    props.value = labels;
    draw();
    edited();
  }

  function add(text) {
    const labels = [...props.value];
    for (const word of text.split(/[,\n]/).map((part) => part.trim().replace(/\s+/g, " ")))
      if (word && !labels.some((label) => label.toLowerCase() === word.toLowerCase()))
        labels.push(word);
    input.value = "";
    if (labels.length > props.value.length) change(labels);
  }

  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === ",") {
      event.preventDefault();
      add(input.value);
    } else if (event.key === "Backspace" && !input.value && props.value.length) {
      change(props.value.slice(0, -1));
    }
  });
  input.addEventListener("input", (event) => {
    // a suggestion that was clicked comes as an event that is no typing
    if (input.value.includes(",") || event.inputType === "insertReplacementText" || !event.inputType)
      add(input.value);
  });
  input.addEventListener("blur", () => add(input.value));
  for (const button of element.querySelectorAll(".sets button"))
    button.addEventListener("click", () =>
      button.name === "clear" ? change([]) : add(props.sets[button.name].join()),
    );
  const suggestions = props.words.map((value) => make("option", { value }));
  element.querySelector("datalist").append(...suggestions);
  watch("value", draw);
  draw();
}

function moveSliders(element, props, watch, moved) {
  const [opacity, threshold, gamma] = element.querySelectorAll("input");
  element.addEventListener("input", ({ target }) => {
    target.previousElementSibling.textContent = Number(target.value).toFixed(2);
    const detail = { opacity: Number(opacity.value), threshold: Number(threshold.value) };
    if (target !== gamma) window.dispatchEvent(new CustomEvent("look", { detail }));
  });
  gamma.addEventListener("change", () => {
    props.value = Number(gamma.value);
    moved();
  });
}

function showRegions(element, props, watch, download) {
  const room = element.querySelector(".panels");
  let panels = [];
  let look = props.look;

  async function show() {
    const value = props.value;
    const made = value ? await Promise.all(value.results.map((_, i) => makePanel(value, i))) : [];
    if (value !== props.value) return; // a later picture came meanwhile
    panels = made;
    room.classList.toggle("pair", panels.length > 1);
    const empty = make("p", { className: "empty" }, "What is found appears here.");
    room.replaceChildren(...(panels.length ? panels.map((one) => one.node) : [empty]));
    for (const one of panels) one.look(look);
  }

  async function makePanel(value, index) {
    const one = await drawPanel(value, value.results[index], point);
    for (const button of one.node.querySelectorAll(".files button"))
      button.addEventListener("click", () => download({ kind: button.name, index, ...look }));
    return one;
  }

  function point(place) {
    for (const one of panels) one.point(place);
  }

  window.addEventListener("look", (event) => {
    look = event.detail;
    for (const one of panels) one.look(look);
  });
  watch("value", show);
  show();
}

// One model's regions: `point` is told where in the picture the pointer is, as shares of its sides.
async function drawPanel({ picture, size, width, height, other }, result, point) {
  const labels = [...result.labels, other];
  const none = labels.length - 1;
  const mask = await unpack(result.mask, Uint8Array);
  const scores = await unpack(result.scores, Uint16Array);
  const sure = result.sure ? await unpack(result.sure, Uint16Array) : scores;
  const shown = new Uint8Array(mask.length); // labels, and `none` below the threshold
  const edges = new Uint8Array(mask.length);
  let opacity = 0;
  let only = null;

  const canvas = make("canvas", { width, height });
  const cross = make("i", { className: "cross", hidden: true });
  const tip = make("output", { className: "tip", hidden: true });
  const image = make("img", { src: picture, alt: "" });
  const stage = make("div", { className: "stage", tabIndex: 0 }, image, canvas, cross, tip);
  stage.setAttribute("role", "group");
  stage.ariaLabel = `Regions found by ${result.name}: arrow keys read out label and score`;
  const legend = make("ul", { className: "legend" });
  const caption = make("p", { className: "caption" });
  const files = make("p", { className: "files" }, "Download");
  for (const [kind, title] of [["mask", "Mask"], ["overlay", "Overlay"], ["coco", "COCO JSON"]])
    files.append(make("button", { name: kind, ariaLabel: `${title} of ${result.name}` }, title));
  const head = make("h2", {}, result.name, make("small", {}, result.detail));
  const node = make("section", {}, head, stage, legend, caption, files);

  function setLook(look) {
    const below = look.threshold ? Math.round((look.threshold + 1) * 32767.5) : 0;
    for (let i = 0; i < mask.length; i++) shown[i] = sure[i] < below ? none : mask[i];
    for (let i = 0; i < mask.length; i++)
      edges[i] =
        ((i + 1) % width && shown[i] !== shown[i + 1]) ||
        (i + width < mask.length && shown[i] !== shown[i + width]);
    opacity = look.opacity;
    tint();
    list();
  }

  function tint() {
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const inks = labels.map(({ colour: [red, green, blue] }, i) => {
      const alpha = only === null || only === i ? Math.round(255 * opacity) : 0;
      return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    });
    const edge = opacity ? 0xffffffff : 0;
    const packed = new Uint32Array(pixels.data.buffer); // bytes are red, green, blue, alpha
    for (let i = 0; i < packed.length; i++) packed[i] = edges[i] ? edge : inks[shown[i]];
    context.putImageData(pixels, 0, 0);
  }

  function list() {
    const counts = labels.map(() => 0);
    const sums = labels.map(() => 0);
    shown.forEach((label, i) => {
      counts[label]++;
      sums[label] += score(scores[i]);
    });
    const order = [...labels.keys()].filter((i) => counts[i]).sort((a, b) => counts[b] - counts[a]);
    legend.replaceChildren(
      ...order.map((i) => {
        const share = (100 * counts[i]) / shown.length;
        const item = make("li", { tabIndex: 0 }, ...named(labels[i]));
        item.append(
          make("data", { title: "share of the picture" }, `${share.toFixed(share < 9.95 ? 1 : 0)} %`),
          make("data", { title: "mean score" }, (sums[i] / counts[i]).toFixed(2)),
        );
        for (const kind of ["pointerenter", "focus"]) item.addEventListener(kind, () => dim(i));
        for (const kind of ["pointerleave", "blur"]) item.addEventListener(kind, () => dim(null));
        return item;
      }),
    );
    const absent = labels.slice(0, none).filter((_, i) => !counts[i]);
    const rest = absent.length ? ` Not found: ${absent.map((one) => one.name).join(", ")}.` : "";
    caption.textContent = `Share of ${size}, and mean score.${rest}`;
  }

  function dim(label) {
    only = label;
    tint();
  }

  function setPoint(place) {
    tip.hidden = cross.hidden = !place;
    if (!place) return;
    const [x, y] = place;
    const i = Math.floor(y * height) * width + Math.floor(x * width);
    const value = score(scores[i]).toFixed(2);
    const chance = result.sure ? ` · ${Math.round(100 * score(sure[i]))} % sure` : "";
    const rest = shown[i] === none ? `${labels[mask[i]].name} ${value}` : value;
    tip.replaceChildren(...named(labels[shown[i]]), make("b", {}, rest + chance));
    cross.style.left = tip.style.left = `${100 * x}%`;
    cross.style.top = tip.style.top = `${100 * y}%`;
    tip.classList.toggle("left", x > 0.5);
    tip.classList.toggle("up", y > 0.7);
  }

  let cursor = [0.5, 0.5];
  const inside = (share) => Math.min(Math.max(share, 0), 0.9999);
  const move = (x, y) => point((cursor = [inside(x), inside(y)]));
  const follow = (event) => {
    const box = canvas.getBoundingClientRect();
    move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  stage.addEventListener("pointermove", follow);
  stage.addEventListener("pointerdown", follow);
  stage.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
  stage.addEventListener("blur", () => point(null));
  stage.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (event.key === "Escape") point(null);
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 0.1 : 0.02;
    move(cursor[0] + far * step[0], cursor[1] + far * step[1]);
  });
  return { node, look: setLook, point: setPoint };
}

function make(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

function named({ name, colour, unseen }) {
  const swatch = make("i", { className: "swatch" });
  swatch.style.background = `rgb(${colour})`;
  const mark = unseen ? [make("small", { title: "no mask of it in training" }, "unseen")] : [];
  return [swatch, make("span", {}, name), ...mark];
}

const score = (stored) => stored / 32767.5 - 1; // as exchange.py packs them

async function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const whole = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Kind(await new Response(whole).arrayBuffer());
}
