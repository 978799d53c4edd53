// A control plane in a cluster asks for a token; `seine dashboard` opens the page
// with one behind the #. It is taken out of the address at once, so that nobody
// copies it with a link, and lives as long as this tab.

const KEY = "seine-token";
let token = "";

/** takeToken is called once, before the address is read for anything else. */
export function takeToken(): void {
  const given = /^#token=([0-9A-Za-z._~-]{1,512})$/.exec(location.hash);
  try {
    if (given?.[1]) {
      // eslint-disable-next-line no-restricted-globals -- a secret of this tab, no preference
      sessionStorage.setItem(KEY, given[1]);
    }
    // eslint-disable-next-line no-restricted-globals -- as above
    token = sessionStorage.getItem(KEY) ?? "";
  } catch {
    token = given?.[1] ?? ""; // a browser that keeps nothing
  }
  if (given) history.replaceState(null, "", location.pathname);
}

/** authorization is the header that each question carries; empty without a token. */
export function authorization(): Record<string, string> {
  return token ? { Authorization: `Bearer ${token}` } : {};
}
