// What chains say of themselves. A chain is an array of numbers, one a draw.

const average = (x) => x.reduce((sum, value) => sum + value, 0) / x.length;

export function variance(x) {
  const m = average(x);
  return x.reduce((sum, value) => sum + (value - m) ** 2, 0) / (x.length - 1);
}

// R-hat of halves of chains: about 1 where all chains tell the same (Gelman et al. 2013, equation 11.4).
export function splitRhat(chains) {
  const halves = chains.flatMap((x) => {
    const n = Math.floor(x.length / 2);
    return [x.slice(0, n), x.slice(x.length - n)];
  });
  const n = halves[0].length;
  if (n < 2) return NaN;
  const within = average(halves.map(variance));
  const between = variance(halves.map(average));
  return Math.sqrt(((n - 1) / n) + between / within);
}

// Autocorrelation at lags 0 to `most`, averaged over chains.
export function autocorrelation(chains, most) {
  const n = chains[0].length;
  const lags = Math.min(most, n - 1);
  const all = chains.map((x) => {
    const m = average(x);
    const centred = x.map((value) => value - m);
    const covariance = [];
    for (let lag = 0; lag <= lags; lag++) {
      let sum = 0;
      for (let t = 0; t + lag < n; t++) sum += centred[t] * centred[t + lag];
      covariance.push(sum / n);
    }
    return covariance;
  });
  const total = all[0].map((_, lag) => average(all.map((covariance) => covariance[lag])));
  return total.map((value) => value / total[0]);
}

// Effective sample size of all chains: Geyer's initial monotone sequence of paired autocorrelations, with the variance
// between chains counted (Stan's, without its ranks).
export function effectiveSize(chains) {
  const n = chains[0].length;
  if (n < 8) return NaN;
  const within = average(chains.map(variance));
  if (!(within > 0)) return NaN;
  const between = chains.length > 1 ? variance(chains.map(average)) : 0;
  const total = ((n - 1) / n) * within + between;
  const centred = chains.map((x) => {
    const m = average(x);
    return x.map((value) => value - m);
  });
  const rho = (lag) => {
    let sum = 0;
    for (const x of centred) {
      let own = 0;
      for (let t = 0; t + lag < n; t++) own += x[t] * x[t + lag];
      sum += own / n;
    }
    return 1 - (within - sum / chains.length * (n / (n - 1))) / total;
  };
  let sum = 0;
  let least = Infinity;
  for (let lag = 0; lag + 1 < n; lag += 2) {
    const pair = (lag === 0 ? 1 : rho(lag)) + rho(lag + 1);
    if (pair < 0) break;
    least = Math.min(least, pair);
    sum += least;
  }
  const time = Math.max(2 * sum - 1, 1 / Math.log10(n * chains.length));
  return (n * chains.length) / time;
}
