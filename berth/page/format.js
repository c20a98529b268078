// Numbers, sizes and times, for people.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export const size = (bytes) => {
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) { bytes /= 1024; unit++; }
  return `${bytes < 10 && unit ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
};

export const number = (value, digits = 0) =>
  value === null || value === undefined || Number.isNaN(value) ? '–'
    : value.toLocaleString('en', { maximumFractionDigits: digits, minimumFractionDigits: 0 });

export const seconds = (value) => {
  if (value === null || value === undefined) return '–';
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 10 ? `${value.toFixed(1)} s` : duration(value);
};

export const duration = (value) => {
  const whole = Math.max(0, Math.round(value));
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  return whole < 129600 ? `${Math.round(whole / 3600)} h` : `${Math.round(whole / 86400)} days`;
};

export const ago = (unix, now = Date.now() / 1000) => `${duration(now - unix)} ago`;

export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString('en', { hour12: false });

export const date = (unix) => new Date(unix * 1000).toLocaleString();

export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? '' : 's'}`;
