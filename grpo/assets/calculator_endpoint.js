"use strict";
// The endpoint of grpo.calculator, in the page that it served: scores by Python, and the steps of a run. The file
// calculator.html alone has no endpoint, and makes no request.
globalThis.endpoint = (() => {
  const { token, ...served } = JSON.parse(document.getElementById("served").textContent);

  // The reply to `content`, an object. Raises an Error with one line about what is wrong; null: nobody answers.
  async function ask(path, content) {
    const headers = { "Content-Type": "application/json", "X-Token": token };
    let status, reply;
    try {
      const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(content) });
      [status, reply] = [answer.ok, await answer.json()];
    } catch {
      throw new Error("", { cause: "unreachable" });
    }
    if (!status) throw new Error(reply.error);
    return reply;
  }

  return { ...served, score: (group) => ask("/score", group), step: (step) => ask("/step", { step }) };
})();
