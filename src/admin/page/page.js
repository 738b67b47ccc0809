// Shows an OpenAPI document and sends requests to this origin. All text is put in as text, never as markup.
'use strict';

const DOCUMENTS = { admin: 'openapi.json', gateway: 'docs/gateway.json' };
const KEPT = 'causality.token';
const METHODS = ['get', 'post', 'put', 'patch', 'delete', 'head'];
const byId = (id) => document.getElementById(id);
let api = 'admin';
let doc = {};

// An element with attributes and children; strings become text.
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return element;
}

// Follows a reference within the document.
function resolve(value) {
  for (let steps = 0; value && value.$ref && steps < 8; steps += 1) {
    value = value.$ref.slice(2).split('/').reduce((at, part) => at && at[part.replace(/~1/g, '/').replace(/~0/g, '~')], doc);
  }
  return value || {};
}

// Paragraphs, **bold** and `code`: what the documents use of Markdown.
function prose(text) {
  return (text || '').split(/\n\n+/).map((paragraph) => make('p', {}, paragraph.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (part.startsWith('**')) return make('strong', {}, part.slice(2, -2));
    return part.startsWith('`') ? make('code', {}, part.slice(1, -1)) : part;
  })));
}

function typeOf(schema) {
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  const types = [schema.type].flat().filter(Boolean).join(' | ') || (schema.properties ? 'object' : 'any');
  const facts = ['format', 'minimum', 'maximum', 'minLength', 'maxLength', 'minItems', 'maxItems', 'pattern', 'default']
    .filter((name) => schema[name] !== undefined).map((name) => `${name} ${JSON.stringify(schema[name])}`);
  return [types, ...facts].join(', ');
}

// A schema as a tree; what is referred to opens when it is asked for, so that recursion ends.
function tree(given, name, required) {
  const schema = resolve(given);
  const parts = [];
  for (const [key, value] of Object.entries(schema.properties || {})) parts.push([key, value, (schema.required || []).includes(key)]);
  if (schema.items) parts.push(['[ ]', schema.items, false]);
  if (schema.additionalProperties && schema.additionalProperties !== true) parts.push(['{ }', schema.additionalProperties, false]);
  for (const word of ['anyOf', 'oneOf', 'allOf']) {
    const choices = (schema[word] || []).filter((choice) => choice.$ref || choice.type || choice.properties || choice.enum);
    choices.forEach((choice, index) => parts.push([`${word} ${index + 1}`, choice, false]));
  }
  const reference = given && given.$ref ? ` ${given.$ref.split('/').pop()}` : '';
  const line = [make('code', required ? { class: 'required', title: 'required' } : {}, name + (required ? ' *' : '')),
    make('span', { class: 'note' }, `${reference} ${typeOf(schema)} ${schema.description || ''}`)];
  if (!parts.length) return make('div', {}, line);
  const inside = make('ul');
  const opened = make('details', {
    ontoggle: (event) => {
      event.stopPropagation();
      if (!inside.childElementCount) inside.append(...parts.map((part) => make('li', {}, tree(part[1], part[0], part[2]))));
    },
  }, make('summary', {}, line), inside);
  return opened;
}

function show(value) {
  return typeof value === 'string' ? value : JSON.stringify(value, null, 2);
}

// The fields of a request, and what they make together.
function form(path, method, operation) {
  const inputs = [];
  const rows = (operation.parameters || []).map(resolve).map((parameter) => {
    const schema = resolve(parameter.schema);
    const input = make('input', { placeholder: parameter.example === undefined ? '' : String(parameter.example), 'aria-label': parameter.name });
    inputs.push({ parameter, input });
    const name = make('code', parameter.required ? { class: 'required' } : {}, parameter.name + (parameter.required ? ' *' : ''));
    return make('tr', {}, make('td', {}, name, ` in ${parameter.in}`), make('td', {}, input),
      make('td', { class: 'note' }, `${typeOf(schema)} ${parameter.description || ''}`));
  });
  const content = (operation.requestBody || {}).content || {};
  // JSON first, the form that people write.
  const types = Object.keys(content).sort((one, other) => (other === 'application/json') - (one === 'application/json'));
  const type = make('select', { 'aria-label': 'Content type' }, types.map((name) => make('option', {}, name)));
  const example = make('select', { 'aria-label': 'Example' });
  const body = make('textarea', { spellcheck: 'false', 'aria-label': 'Body' });
  const schemaPlace = make('div', { class: 'schema' });
  const fillBody = () => { body.value = show(((content[type.value] || {}).examples || {})[example.value]?.value ?? ''); };
  const fillType = () => {
    const chosen = content[type.value] || {};
    example.replaceChildren(...Object.keys(chosen.examples || {}).map((name) => make('option', {}, name)));
    schemaPlace.replaceChildren(chosen.schema ? tree(chosen.schema, 'body', true) : '');
    fillBody();
  };
  type.addEventListener('change', fillType);
  example.addEventListener('change', fillBody);
  if (types.length) fillType();
  const request = () => {
    let target = path;
    const search = new URLSearchParams();
    const headers = {};
    for (const { parameter, input } of inputs) {
      if (parameter.in === 'path') target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value && parameter.in === 'query') search.append(parameter.name, input.value);
      else if (input.value && parameter.in === 'header') headers[parameter.name] = input.value;
    }
    if (types.length) headers['Content-Type'] = type.value;
    const question = search.size ? `?${search}` : '';
    return { method: method.toUpperCase(), target: target + question, headers, body: types.length ? body.value : undefined };
  };
  const element = make('div', {}, rows.length ? [make('h3', {}, 'Parameters'), make('table', {}, rows)] : [],
    types.length ? [make('h3', {}, 'Body'), type, ' ', example, body, schemaPlace] : []);
  return { element, request };
}

function quoted(text) {
  return `'${text.replace(/'/g, "'\\''")}'`;
}

function curl(request) {
  const base = api === 'admin' ? location.origin : 'http://127.0.0.1:8080';
  const words = ['curl', '-i', '-X', request.method, quoted(base + request.target)];
  for (const [name, value] of Object.entries(request.headers)) words.push('-H', quoted(`${name}: ${value}`));
  // The token itself would end up in somebody's history.
  words.push('-H', api === 'admin' ? '"Authorization: Bearer $CAUSALITY_ADMIN_TOKEN"' : '"X-API-Key: $KEY"');
  if (request.body !== undefined) words.push('--data-binary', quoted(request.body));
  return words.join(' ');
}

async function send(request, result) {
  const headers = { ...request.headers };
  const token = byId('token').value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  result.replaceChildren('…');
  try {
    const started = performance.now();
    const reply = await fetch(request.target.slice(1), {
      method: request.method, headers, body: request.body, credentials: 'omit', redirect: 'error', cache: 'no-store',
    });
    const text = await reply.text();
    const heads = [...reply.headers].map(([name, value]) => `${name}: ${value}`).join('\n');
    let pretty = text;
    try { pretty = JSON.stringify(JSON.parse(text), null, 2); } catch { /* Not JSON: shown as it came. */ }
    const took = `${reply.status} ${reply.statusText}, ${Math.round(performance.now() - started)} ms`;
    result.replaceChildren(make('h3', {}, took), make('pre', {}, heads), make('pre', {}, pretty));
  } catch (error) {
    result.replaceChildren(make('pre', {}, String(error)));
  }
}

function answers(operation) {
  return Object.entries(operation.responses || {}).map(([status, given]) => {
    const response = resolve(given);
    const contents = Object.entries(response.content || {}).map(([type, media]) => make('div', { class: 'schema' }, make('code', {}, type),
      media.schema ? tree(media.schema, 'body', false) : '', media.example === undefined ? '' : make('pre', {}, show(media.example))));
    return make('details', {}, make('summary', {}, make('strong', {}, status), ` ${response.description || ''}`), contents);
  });
}

function operationElement(path, method, operation) {
  const inside = make('div');
  const fill = () => {
    if (inside.childElementCount) return;
    const { element, request } = form(path, method, operation);
    const result = make('div', { 'aria-live': 'polite' });
    const sendIt = () => {
      const made = request();
      if (made.method !== 'DELETE' || confirm(`${made.method} ${made.target}?`)) send(made, result);
    };
    const buttons = [api === 'admin' ? make('button', { type: 'button', onclick: sendIt }, 'Send') : '',
      make('button', { type: 'button', onclick: () => result.replaceChildren(make('pre', {}, curl(request()))) }, 'As curl')];
    inside.append(...prose(operation.description), element, ...buttons, result, make('h3', {}, 'Answers'), ...answers(operation));
  };
  const role = operation['x-least-role'];
  return make('details', { class: 'operation', id: operation.operationId, ontoggle: fill },
    make('summary', {}, make('span', { class: 'method' }, method.toUpperCase()), make('span', { class: 'path' }, path), ' ',
      make('span', { class: 'summary' }, operation.summary || ''), role ? make('span', { class: 'role' }, role) : ''), inside);
}

function render() {
  const filter = byId('filter').value.toLowerCase();
  const groups = new Map((doc.tags || []).map((tag) => [tag.name, [make('h2', {}, tag.name), make('p', { class: 'note' }, tag.description || '')]]));
  for (const [path, item] of Object.entries(doc.paths || {})) {
    for (const method of METHODS.filter((name) => item[name])) {
      const operation = item[method];
      const words = `${method} ${path} ${operation.summary} ${operation.operationId}`.toLowerCase();
      if (words.includes(filter)) groups.get(operation.tags[0])?.push(operationElement(path, method, operation));
    }
  }
  byId('operations').replaceChildren(...[...groups.values()].filter((group) => group.length > 2).flat());
}

async function load() {
  api = byId('api').value;
  byId('of-token').hidden = byId('of-keep').hidden = api !== 'admin';
  try {
    const reply = await fetch(DOCUMENTS[api], { credentials: 'omit' });
    if (!reply.ok) throw new Error(`${reply.status} ${reply.statusText}`);
    doc = await reply.json();
    byId('title').textContent = doc.info.title;
    byId('about').replaceChildren(...prose(doc.info.description));
  } catch (error) {
    doc = {};
    byId('about').replaceChildren(make('p', {}, `The document cannot be loaded: ${error}`));
  }
  render();
}

// The token stays in this page unless its owner wants it kept, and then until the tab is closed.
function keep() {
  if (byId('keep').checked) sessionStorage.setItem(KEPT, byId('token').value.trim());
  else sessionStorage.removeItem(KEPT);
}

const kept = sessionStorage.getItem(KEPT);
byId('token').value = kept || '';
byId('keep').checked = kept !== null;
byId('token').addEventListener('change', keep);
byId('keep').addEventListener('change', keep);
byId('filter').addEventListener('input', render);
byId('api').addEventListener('change', load);
load();
