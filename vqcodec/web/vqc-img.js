// SPDX-License-Identifier: MIT
/**
 * One script tag, and <img src="photo.vqc"> works, with srcset, lazy loading and pictures that scripts add later:
 *
 *     <script src="/vqcodec/vqc-img.js"></script>
 *
 * Best in the head: pictures are then never seen broken. With data-worker="/vqc-sw.js" it also registers the service
 * worker, which from the next page on answers requests for .vqc pictures with PNG files, in style sheets too.
 * A classic script: it must run before the pictures are parsed.
 */
(() => {
  "use strict";
  const page = /** @type {any} */ (window);
  if (page.vqcImages) return;
  const script = /** @type {HTMLScriptElement} */ (document.currentScript);
  const here = script.src;
  const CACHE = "vqcodec-pictures", MOST_KEPT = 200;
  let loaded = /** @type {Promise<any> | null} */ (null);
  const decoder = () => (loaded ??= import(new URL("vqcodec.js", here).href));

  const isVqc = url => {
    try {
      return new URL(url, document.baseURI).pathname.toLowerCase().endsWith(".vqc");
    } catch {
      return false;
    }
  };

  // ---- one picture for each address ------------------------------------------------------------------------------------

  /** address -> {blob: Promise<Blob>, url: Promise<string>, users: number} */
  const pictures = new Map();
  const forgotten = new FinalizationRegistry(address => release(address));

  function release(address) {
    const picture = pictures.get(address);
    if (!picture || --picture.users > 0) return;
    pictures.delete(address);
    picture.url.then(URL.revokeObjectURL, () => {});
  }

  function pictureOf(address, onLook) {
    let picture = pictures.get(address);
    if (!picture) {
      const blob = fetched(address, onLook);
      picture = { blob, url: blob.then(URL.createObjectURL), users: 0 };
      picture.url.catch(() => pictures.delete(address)); // it may be tried again
      pictures.set(address, picture);
    }
    return picture;
  }

  /** The PNG of an address: from the browser's cache while the server's version is the same. */
  async function fetched(address, onLook) {
    const response = await fetch(address);
    const version = response.headers.get("etag") ?? response.headers.get("last-modified");
    const cache = version && (await window.caches?.open(CACHE).catch(() => null));
    const key = new URL(address);
    key.searchParams.set("vqc-version", version ?? "");
    key.hash = "";
    const kept = await cache?.match(key.href);
    if (kept && response.ok) {
      response.body?.cancel();
      return kept.blob();
    }
    const { toPng } = await decoder();
    const blob = await toPng(response, { onLook });
    if (cache) keep(cache, key.href, blob);
    return blob;
  }

  async function keep(cache, key, blob) {
    try {
      await cache.put(key, new Response(blob));
      for (const old of (await cache.keys()).slice(0, -MOST_KEPT)) await cache.delete(old);
    } catch {
      // full: the next visit decodes again
    }
  }

  // ---- what a page's <img> asks for --------------------------------------------------------------------------------------

  const asked = new WeakMap(); // <img> -> {src, srcset} as the page gave them

  /** Candidates of a srcset: [address, descriptor]. */
  const candidates = srcset =>
    srcset.split(/,\s+|,$|\s+,/).map(part => part.trim().split(/\s+/)).filter(([url]) => url).map(([url, size]) => [url, size ?? ""]);

  /** Lets the browser choose: a picture that is not in the page selects, too. */
  async function chosen(image, { src, srcset }) {
    const list = candidates(srcset ?? "");
    if (!list.length) return [src, ""];
    if (list.length === 1) return list[0];
    const probe = new Image();
    const names = new Map(list.map(([url, size], number) => [`data:,${number}`, [url, size]]));
    probe.sizes = image.sizes;
    probe.srcset = [...names].map(([name, [, size]]) => `${name} ${size}`).join(", ");
    for (let tries = 0; !probe.currentSrc && tries < 50; tries++) await new Promise(resolve => setTimeout(resolve));
    return names.get(probe.currentSrc) ?? list[0];
  }

  async function show(image) {
    const wanted = asked.get(image);
    const [url, size] = await chosen(image, wanted);
    if (asked.get(image) !== wanted) return;
    if (!url || !isVqc(url)) {
      image.dataset.vqc = "other";
      return;
    }
    const address = new URL(url, document.baseURI).href;
    if (wanted.address === address) return;
    const first = !wanted.address;
    wanted.address = address;
    const current = () => asked.get(image) === wanted && wanted.address === address;
    const set = url => {
      wanted.own = true;
      if (size) image.srcset = `${url} ${size}`;
      else image.removeAttribute("srcset");
      image.src = url;
    };
    const early = look => {
      if (!current()) return;
      const url = URL.createObjectURL(look);
      image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
      set(url);
      image.dataset.vqc = "coarse";
    };
    const picture = pictureOf(address, first ? early : undefined);
    picture.users++;
    try {
      const url = await picture.url;
      if (!current()) return release(address);
      forgotten.register(image, address);
      image.addEventListener("load", () => (image.dataset.vqc = "shown"), { once: true });
      set(url);
    } catch (error) {
      release(address);
      if (!current()) return;
      image.dataset.vqc = "failed"; // the browser shows the text of alt
      console.warn(`vqcodec: ${address}: ${error.message}`);
    }
  }

  const nearby = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      nearby.unobserve(target);
      show(target);
    }
  }, { rootMargin: "600px" });

  /** Looks at an <img> that is new, or whose attributes changed. */
  function consider(image) {
    const [src, srcset] = [image.getAttribute("src"), image.getAttribute("srcset")];
    const own = value => !value || value.startsWith("blob:");
    const before = asked.get(image);
    if (before && own(src) && own(srcset)) return; // this was us
    if (!isVqc(src ?? "") && !candidates(srcset ?? "").some(([url]) => isVqc(url))) {
      if (before) asked.delete(image), delete image.dataset.vqc;
      return;
    }
    if (before && !before.own && before.src === src && before.srcset === srcset) return; // it is on its way
    asked.set(image, { src, srcset });
    image.dataset.vqc = "wait";
    if (image.loading === "lazy") nearby.observe(image);
    else show(image);
  }

  /** <source type="image/x-vqc">: no browser takes it, so the fallback is seen until its picture is there. */
  async function upgrade(source) {
    const list = candidates(source.getAttribute("srcset") ?? "");
    if (list.length !== 1 || !isVqc(list[0][0]) || source.parentElement?.localName !== "picture") return;
    const address = new URL(list[0][0], document.baseURI).href, picture = pictureOf(address);
    picture.users++;
    try {
      const url = await picture.url;
      forgotten.register(source, address);
      source.srcset = `${url} ${list[0][1]}`.trim();
      source.removeAttribute("type");
    } catch (error) {
      release(address);
      console.warn(`vqcodec: ${address}: ${error.message}`);
    }
  }

  function look(node) {
    if (node.localName === "img") consider(node);
    else if (node.localName === "source" && node.type === "image/x-vqc") upgrade(node);
    else node.querySelectorAll?.("img, source[type='image/x-vqc']").forEach(look);
  }

  function watch() {
    const style = document.createElement("style");
    style.textContent =
      ':is(img[data-vqc="wait"], img:not([data-vqc])[src*=".vqc" i], img:not([data-vqc])[srcset*=".vqc" i]) { visibility: hidden !important }';
    (document.head ?? document.documentElement).append(style);
    new MutationObserver(changes => {
      for (const { type, target, addedNodes } of changes) {
        if (type === "attributes") consider(target);
        else addedNodes.forEach(look);
      }
    }).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["src", "srcset"] });
    look(document);
    let timer = 0;
    addEventListener("resize", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        for (const image of document.querySelectorAll("img[data-vqc]")) if (asked.get(image)?.srcset) show(image);
      }, 200);
    });
  }

  // ---- the service worker asks the page, which has a worker to decode in --------------------------------------------------

  const service = navigator.serviceWorker;
  service?.addEventListener("message", async ({ data, ports: [port] }) => {
    if (!data?.vqc || !port) return;
    port.postMessage({ heard: true });
    try {
      port.postMessage({ blob: await pictureOf(data.vqc).blob });
    } catch (error) {
      port.postMessage({ error: error.message });
    }
  });
  service?.startMessages();
  if (script.dataset.worker) {
    service?.register(script.dataset.worker).catch(error => console.warn(`vqcodec: no service worker (${error.message})`));
  }
  page.vqcImages = { pictureOf: address => pictureOf(new URL(address, document.baseURI).href).blob };
  if (!(service?.controller && script.dataset.worker && service.controller.scriptURL === new URL(script.dataset.worker, document.baseURI).href)) watch();
})();
