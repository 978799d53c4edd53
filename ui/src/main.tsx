import { render } from "preact";
import { takeToken } from "./api/token.ts";
import { App } from "./app.tsx";
import { applyTheme } from "./preferences.ts";
import { follow } from "./route.ts";
import "./style.css";

takeToken();
follow();
applyTheme();
const host = document.getElementById("app");
if (host) render(<App />, host);
