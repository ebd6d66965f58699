// Random numbers from a seed: the same link shows the same chain.

// Uniform on (0, 1): xoshiro128** by Blackman and Vigna, filled by splitmix32.
export function makeRandom(seed) {
  let filler = seed >>> 0;
  const fill = () => {
    filler = (filler + 0x9e3779b9) >>> 0;
    let t = filler ^ (filler >>> 16);
    t = Math.imul(t, 0x21f0aaad);
    t ^= t >>> 15;
    t = Math.imul(t, 0x735a2d97);
    return (t ^ (t >>> 15)) >>> 0;
  };
  const s = [fill(), fill(), fill(), fill()];
  const rotate = (x, k) => (x << k) | (x >>> (32 - k));
  const word = () => {
    const result = Math.imul(rotate(Math.imul(s[1], 5), 7), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 11);
    return result;
  };
  const uniform = () => (word() * 2 ** 21 + (word() >>> 11) + 0.5) / 2 ** 53;
  let spare = null;
  // standard normal, by Box and Muller
  const normal = () => {
    if (spare !== null) {
      const value = spare;
      spare = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
  return { uniform, normal };
}
