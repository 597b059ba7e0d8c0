"use strict";
// Structures of the page: balls and sticks in perspective of none, turned by dragging.
(() => {
  const shade = (c, f) => `rgb(${c.map((v) => Math.round(Math.min(255, v * f))).join(",")})`;
  const turned = (m, v) => m.map((r) => r[0] * v[0] + r[1] * v[1] + r[2] * v[2]);
  const times = (a, b) => a.map((r) => [0, 1, 2].map((j) => r[0] * b[0][j] + r[1] * b[1][j] + r[2] * b[2][j]));
  const about = (x, y) => {
    const [cx, sx, cy, sy] = [Math.cos(x), Math.sin(x), Math.cos(y), Math.sin(y)];
    return times([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]);
  };
  function show(canvas) {
    const data = JSON.parse(canvas.dataset.atoms);
    let view = about(-1.2, 0.5);
    const reach = Math.max(1, ...data.p.map((p, i) => Math.hypot(...p) + data.r[i]), ...data.e.flat().map((p) => Math.hypot(...p)));
    function draw() {
      const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
      canvas.width = width * ratio; canvas.height = height * ratio;
      const pen = canvas.getContext("2d"), scale = 0.46 * Math.min(width, height) / reach;
      pen.scale(ratio, ratio); pen.translate(width / 2, height / 2);
      const at = data.p.map((p) => turned(view, p));
      pen.strokeStyle = "#b8c2cc"; pen.lineWidth = 1;
      for (const edge of data.e) {
        const [a, b] = edge.map((p) => turned(view, p));
        pen.beginPath(); pen.moveTo(scale * a[0], -scale * a[1]); pen.lineTo(scale * b[0], -scale * b[1]); pen.stroke();
      }
      const parts = data.p.map((_, i) => ({z: at[i][2], atom: i}));
      for (const [i, j] of data.b) {
        const middle = [0, 1, 2].map((k) => (at[i][k] + at[j][k]) / 2);
        for (const k of [i, j]) parts.push({z: (at[k][2] + middle[2]) / 2 - 0.05, atom: k, to: middle});
      }
      parts.sort((a, b) => a.z - b.z);
      for (const part of parts) {
        const [x, y, z] = at[part.atom], color = data.c[part.atom], far = 0.82 + 0.18 * (z / reach);
        if (part.to) {
          pen.strokeStyle = shade(color, 0.8 * far); pen.lineWidth = Math.max(2, 0.26 * scale); pen.lineCap = "round";
          pen.beginPath(); pen.moveTo(scale * x, -scale * y); pen.lineTo(scale * part.to[0], -scale * part.to[1]); pen.stroke();
          continue;
        }
        const size = Math.max(2.5, 0.52 * data.r[part.atom] * scale), [px, py] = [scale * x, -scale * y];
        const light = pen.createRadialGradient(px - size / 3, py - size / 3, size / 8, px, py, size);
        light.addColorStop(0, shade(color.map((v) => v + 60), 1.05)); light.addColorStop(1, shade(color, 0.72 * far));
        pen.fillStyle = light; pen.beginPath(); pen.arc(px, py, size, 0, 2 * Math.PI); pen.fill();
        pen.strokeStyle = shade(color, 0.5); pen.lineWidth = 0.7; pen.stroke();
      }
    }
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (!(event.buttons & 1)) return;
      view = times(about(0.012 * event.movementY, 0.012 * event.movementX), view);
      draw();
    });
    new ResizeObserver(draw).observe(canvas);
    draw();
    canvas.dataset.drawn = "yes";
  }
  document.querySelectorAll("canvas.structure").forEach(show);
})();
