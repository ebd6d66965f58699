// Long work is a generator that yields now and then: run to its end, or in slices between frames, so that the page
// answers while it computes.

export function finish(work) {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}

// How many points to ask a decoder of this cost for between two yields: some milliseconds' worth, in fours.
export const pointsAtOnce = (cost) => Math.max(8, 4 * Math.floor(1e6 / cost));

const SLICE = 12; // milliseconds

// Runs a generator to its end; resolves with what it returns, or with undefined if `current()` says that it is stale.
export function inSlices(work, current = () => true) {
  return new Promise((resolve, reject) => {
    const channel = new MessageChannel();
    channel.port1.addEventListener("message", () => {
      try {
        if (!current()) {
          resolve(undefined);
          return;
        }
        const end = performance.now() + SLICE;
        do {
          const { done, value } = work.next();
          if (done) {
            resolve(value);
            return;
          }
        } while (performance.now() < end);
        channel.port2.postMessage(null);
      } catch (error) {
        reject(error);
      }
    });
    channel.port1.start();
    channel.port2.postMessage(null);
  });
}
