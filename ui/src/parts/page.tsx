import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Away, Refusal } from "../api/client.ts";
import type { Polled } from "../api/poll.ts";

interface HeadProps {
  title: string;
  crumbs?: ComponentChildren;
  children?: ComponentChildren;
}

/** Head is a page's heading; it takes the focus when the page is opened. */
export function Head({ title, crumbs, children }: HeadProps): JSX.Element {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${title} · Seine`;
    // Not on the first page: a browser starts at the top by itself.
    if (opened) heading.current?.focus({ preventScroll: true });
    opened = true;
    scrollTo(0, 0);
  }, [title]);
  return (
    <div class="head">
      <div class="title">
        {crumbs && <div class="crumbs">{crumbs}</div>}
        <h1 ref={heading} tabIndex={-1}>
          {title}
        </h1>
      </div>
      {children && <div class="tools">{children}</div>}
    </div>
  );
}

let opened = false;

interface CardProps {
  title: string;
  aside?: ComponentChildren;
  children: ComponentChildren;
  /** flush is for content that brings its own edges, such as a table. */
  flush?: boolean;
}

export function Card({ title, aside, children, flush }: CardProps): JSX.Element {
  return (
    <section class="card" aria-label={title}>
      <header>
        <h2>{title}</h2>
        {aside !== undefined && <span class="small soft end">{aside}</span>}
      </header>
      {flush ? children : <div class="body">{children}</div>}
    </section>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }): JSX.Element {
  return (
    <div class="empty">
      <strong>{title}</strong>
      {children && <p>{children}</p>}
    </div>
  );
}

export function Notice({ tone, children }: { tone: "bad" | "warn" | "plain"; children: ComponentChildren }): JSX.Element {
  return <div class={`notice ${tone}`}>{children}</div>;
}

function Waiting(): JSX.Element {
  return (
    <div class="wait" role="status">
      <span class="hidden">Loading</span>
      <i />
      <i />
      <i />
    </div>
  );
}

interface AnswerProps<T> {
  of: Polled<T>;
  children: (data: T) => ComponentChildren;
}

/**
 * Answer shows what was asked for, or that it is not there yet, or why not. When
 * a later question fails, what came before stays; that nobody answers is said
 * once, at the top of the page.
 */
export function Answer<T>({ of, children }: AnswerProps<T>): JSX.Element {
  const { data, error } = of;
  return (
    <>
      {error && !(error instanceof Away) && <Failed error={error} />}
      {data !== undefined ? children(data) : !error || error instanceof Away ? <Waiting /> : null}
    </>
  );
}

function Failed({ error }: { error: Error }): JSX.Element {
  if (error instanceof Refusal && error.status === 401) {
    return (
      <Notice tone="warn">
        <strong>This control plane wants to know who asks</strong>
        <span>
          Run <code>seine dashboard</code>: it opens this page with a link that is let in. {error.message}
        </span>
      </Notice>
    );
  }
  const missing = error instanceof Refusal && error.status === 404;
  return (
    <Notice tone={missing ? "warn" : "bad"}>
      <strong>{missing ? "Not found" : "This could not be shown"}</strong>
      <span>{error.message}</span>
    </Notice>
  );
}
