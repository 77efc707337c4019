"use strict";
// Requests to grpo.calculator, in the page that it served: scores by Python, and the steps of a run. The file
// calculator.html alone is without this script, and makes no request.
globalThis.endpoint = (() => {
  const { token, ...served } = JSON.parse(document.getElementById("served").textContent);

  // The reply to the object `content`. Throws an Error with one line about the mistake; its cause is "unreachable" if
  // there is no answer.
  async function ask(path, content) {
    const headers = { "Content-Type": "application/json", "X-Token": token };
    let answer, reply;
    try {
      answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(content) });
      reply = await answer.json();
    } catch {
      throw new Error("", { cause: "unreachable" });
    }
    if (!answer.ok) throw new Error(reply.error);
    return reply;
  }

  return { ...served, score: (group) => ask("/score", group), step: (step) => ask("/step", { step }) };
})();
