// Weights and data of the model: one block of bytes in base64, and the places in it.

// The bytes of a base64 text.
export function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// A function from a place, {at, type, shape}, to its numbers in double precision.
export function makeReader(bytes) {
  return (place) => {
    const size = place.shape.reduce((product, n) => product * n, 1);
    if (place.type === "u1") return Float64Array.from(bytes.subarray(place.at, place.at + size));
    return Float64Array.from(new Float32Array(bytes.buffer, bytes.byteOffset + place.at, size));
  };
}
