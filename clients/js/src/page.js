// The build for pages: <script src=".../ledstream.js" data-key="..." async></script>
import { ledstream } from "./ledstream.js";

const { src, dataset } = document.currentScript;
const waiting = window.ledstream || [];
const api = ledstream({ endpoint: new URL(src).origin, ...dataset });
// What was asked for before this script was there: (window.ledstream ||= []).push(["consent", true])
api.push = ([name, ...given]) => api[name](...given);
window.ledstream = api;
waiting.map(api.push);
