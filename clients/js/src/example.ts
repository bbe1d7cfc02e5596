// Compiled by `npm run types`: the types are those that a shop's own code would be checked against.
import { type Answer, ledstream } from "./ledstream.js";

const shop = ledstream({ endpoint: "https://rec.example.org", key: "shop-key-1" });
const isOn: boolean = shop.consent(true);
if (isOn) {
  shop.view("hat-01");
  shop.sale(17, { value: 39.9, context: { colour: "red" } });
  shop.identify("ana");
}
document.querySelector("div")?.addEventListener("ledstream:recs", (event) => {
  const answer: Answer = event.detail;
  const title: string | undefined = answer.items[0]?.title;
  console.log(answer.items[0]?.item_id, title, answer.answer_id);
});
// @ts-expect-error a value is a number
shop.sale("hat-01", { value: "39.9" });
