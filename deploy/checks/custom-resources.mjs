// Schemas of custom resources: a JSON list of objects on standard input, packages @kubernetes-models/* in NODE_MODULES.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.env.NODE_MODULES + "/");
const kinds = {
  "autoscaling.k8s.io/v1": "@kubernetes-models/autoscaler/autoscaling.k8s.io/v1",
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "cert-manager.io/v1": "@kubernetes-models/cert-manager/cert-manager.io/v1",
  "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
};
let checked = 0;
let faults = 0;
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const place = kinds[object.apiVersion];
  if (!place) continue;
  const Kind = require(`${place}/${object.kind}`)[object.kind];
  try {
    new Kind(object).validate();
    checked += 1;
  } catch (error) {
    faults += 1;
    console.log(`${object.kind} ${object.metadata.namespace ?? ""}/${object.metadata.name}: ${error.message}`);
  }
}
if (checked === 0) {
  console.log("nothing was checked");
  faults += 1;
}
if (faults > 0) process.exit(1);
console.log(`${checked} custom resources are valid`);
