// SPDX-License-Identifier: MIT
/**
 * A service worker that answers a page's requests for .vqc pictures with PNG files. Pages load vqc-img.js with
 * data-worker="/vqc-sw.js": it registers this file and decodes what this file asks for, because a service worker may not
 * start workers itself. Everything else goes to the server: a .vqc that is opened or fetched stays what it is.
 */
"use strict";
const scope = /** @type {any} */ (self);
const PATIENCE_MS = 5000; // for a page to say that it has heard; one without vqc-img.js never does

scope.addEventListener("install", () => scope.skipWaiting());
scope.addEventListener("activate", event => event.waitUntil(scope.clients.claim()));
scope.addEventListener("fetch", event => {
  const { request, clientId } = event;
  const wanted = request.method === "GET" && request.destination === "image";
  if (wanted && clientId && new URL(request.url).pathname.toLowerCase().endsWith(".vqc")) event.respondWith(answer(request, clientId));
});

async function answer(request, clientId) {
  const page = await scope.clients.get(clientId);
  const { blob, error } = page ? await asked(page, request.url) : {};
  if (blob) return new Response(blob, { headers: { "content-type": "image/png" } });
  if (error) console.warn(`vqcodec: ${request.url}: ${error}`);
  return error ? Response.error() : fetch(request);
}

function asked(page, url) {
  const { port1, port2 } = new MessageChannel();
  return new Promise(resolve => {
    const timer = setTimeout(() => resolve({}), PATIENCE_MS);
    port1.onmessage = ({ data }) => {
      clearTimeout(timer);
      if (!data.heard) resolve(data);
    };
    page.postMessage({ vqc: url }, [port2]);
  });
}
