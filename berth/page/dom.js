// Templates, components and state: html`<p class=${kind}>${text}</p>` describes nodes, and `render` makes the document
// like that with few changes, so that focus, selection and scrolling stay.
//
// A component is a function from attributes to a description. What it keeps between calls is in useState, useRef and
// useEffect, which it must always call in the same order. Entries of a list have a `key` each.

const PARTS = /<(\/?)(\0\d+\0|[\w-]*)((?:"[^"]*"|[^">])*?)(\/?)>/g;
const ATTRIBUTE = /([\w:-]+)(?:=("[^"]*"|\0\d+\0))?/g;
const PLACE = /\0(\d+)\0/;
const SVG = 'http://www.w3.org/2000/svg';
const LATE = new Set(['value', 'checked', 'selected']); // properties that users change; of a select after its options
const templates = new WeakMap();

export function html(strings, ...values) {
  let template = templates.get(strings);
  if (!template) templates.set(strings, template = parse(strings.reduce((text, next, at) => `${text}\0${at - 1}\0${next}`)));
  const nodes = template.map((node) => filled(node, values));
  return nodes.length === 1 ? nodes[0] : nodes;
}

// A tree of [tag, attributes, children] and texts, in which \0N\0 stands for the N-th value.
function parse(text) {
  const root = [];
  const open = [root];
  let end = 0;
  const add = (part) => part.replace(/^\s*\n\s*|\s*\n\s*$/g, '').split(/(\0\d+\0)/).forEach((one) => one && open.at(-1).push(one));
  for (const [whole, closes, tag, attributes, single] of text.matchAll(PARTS)) {
    const at = text.indexOf(whole, end);
    add(text.slice(end, at));
    end = at + whole.length;
    if (closes) open.pop();
    else {
      const node = [tag, [...attributes.matchAll(ATTRIBUTE)].map(([, name, value]) => [name, value?.replace(/^"|"$/g, '')]), []];
      open.at(-1).push(node);
      if (!single) open.push(node[2]);
    }
  }
  add(text.slice(end));
  return root;
}

const value = (text, values) => {
  const [whole, at] = PLACE.exec(text) ?? [];
  if (!whole) return text;
  return whole === text ? values[at] : text.replace(/\0(\d+)\0/g, (_, one) => values[one] ?? '');
};

function filled(node, values) {
  if (typeof node === 'string') return value(node, values);
  const [tag, attributes, children] = node;
  const props = {};
  for (const [name, given] of attributes) props[name] = given === undefined ? true : value(given, values);
  return { tag: value(tag, values), props, key: props.key, children: children.map((child) => filled(child, values)) };
}

// --- a tree of instances: {tag, key, node, children, hooks}. Lists and components have no node of their own.

let current = null;
let slot = 0;
let pending = false;
let effects = [];
let root = null;

const described = (one) => {
  if (Array.isArray(one)) return { tag: '[]', children: one };
  if (one === null || one === undefined || typeof one === 'boolean') return { tag: '', children: [] };
  return typeof one === 'object' ? one : { tag: '#', text: String(one), children: [] };
};

function update(instance, wanted, svg) {
  const { tag } = wanted;
  if (typeof tag === 'function') {
    current = instance;
    slot = 0;
    instance.children = updateAll(instance.children, [tag({ ...wanted.props, children: wanted.children })], svg);
  } else if (tag === '#') {
    instance.node ??= document.createTextNode('');
    if (instance.node.data !== wanted.text) instance.node.data = wanted.text;
  } else if (tag === '[]' || !tag) {
    instance.children = updateAll(instance.children, wanted.children, svg);
  } else {
    svg ||= tag === 'svg';
    instance.node ??= svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    const before = instance.props ?? {};
    for (const name of new Set([...Object.keys(before), ...Object.keys(wanted.props)])) {
      if (!LATE.has(name) && before[name] !== wanted.props[name]) set(instance.node, name, wanted.props[name]);
    }
    instance.children = updateAll(instance.children, wanted.children, svg);
    instance.children.reduceRight((next, child) => place(child, instance.node, next), null);
    for (const name of LATE) if (name in wanted.props && instance.node[name] !== wanted.props[name]) instance.node[name] = wanted.props[name];
    instance.props = wanted.props;
  }
  return instance;
}

function updateAll(before, wanted, svg) {
  const keyed = new Map(before.filter((one) => one.key !== undefined).map((one) => [one.key, one]));
  const kept = new Set();
  const after = wanted.map(described).map((one, at) => {
    const found = one.key === undefined ? before[at] : keyed.get(one.key);
    const fits = found && found.tag === one.tag && found.key === one.key && !kept.has(found);
    const instance = fits ? found : { tag: one.tag, key: one.key, children: [], hooks: [] };
    kept.add(instance);
    return update(instance, one, svg);
  });
  before.forEach((one) => kept.has(one) || remove(one, true));
  return after;
}

function set(node, name, given) {
  if (name === 'key') return;
  if (name === 'ref') given.current = node;
  else if (name === 'style') Object.assign(node.style, given);
  else if (name.startsWith('on')) node[name.toLowerCase()] = given && ((event) => void given(event)); // false would cancel
  else if (given === null || given === undefined || (given === false && !name.startsWith('aria-'))) node.removeAttribute(name);
  else node.setAttribute(name, given === true && !name.startsWith('aria-') ? '' : given);
}

// Puts the nodes of an instance before `next`; returns the first of them.
function place(instance, parent, next) {
  if (!instance.node) return instance.children.reduceRight((after, child) => place(child, parent, after), next);
  if (instance.node.parentNode !== parent || instance.node.nextSibling !== next) parent.insertBefore(instance.node, next);
  return instance.node;
}

function remove(instance, visible) {
  instance.hooks.forEach((hook) => hook.end?.());
  instance.children.forEach((child) => remove(child, visible && !instance.node));
  if (visible) instance.node?.remove();
}

export function render(description, parent) {
  root = { parent, description, instance: { tag: '[]', children: [], hooks: [] } };
  parent.replaceChildren();
  draw();
}

function draw() {
  pending = false;
  update(root.instance, { tag: '[]', children: [root.description] });
  place(root.instance, root.parent, null);
  const due = effects;
  effects = [];
  for (const hook of due) {
    hook.end?.();
    hook.end = hook.effect();
  }
}

export function redraw() {
  if (!pending) setTimeout(draw);
  pending = true;
}

const hook = (make) => current.hooks[slot++] ?? (current.hooks[slot - 1] = make());

export function useState(initial) {
  const own = hook(() => ({
    value: initial,
    set: (next) => {
      own.value = typeof next === 'function' ? next(own.value) : next;
      redraw();
    },
  }));
  return [own.value, own.set];
}

export const useRef = (initial = null) => hook(() => ({ current: initial }));

// Calls `effect` after the document has changed, whenever one of `inputs` has; what it returns ends it.
export function useEffect(effect, inputs) {
  const own = hook(() => ({}));
  if (!inputs || !own.inputs || inputs.some((one, at) => one !== own.inputs[at])) effects.push(own);
  own.effect = effect;
  own.inputs = inputs;
}
