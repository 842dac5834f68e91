// The three ways to bring a picture: drop it, paste it, choose it. A result may be dragged too: it is a picture of the
// index then, and is not sent anew.

export const DRAGGED = "application/x-patchword-id";

/**
 * Listen.
 *
 * @param bring called with a list of {file} or {id}, and "replace" or "add"
 * @param refuse called with a sentence when what was dropped is of no use
 * @param hasQuery whether there is a query to add to
 */
export function listen({ bring, refuse, hasQuery }) {
  const drop = document.getElementById("drop");
  const zones = [...drop.querySelectorAll(".zone")];
  const file = document.getElementById("file");
  let depth = 0; // enter and leave come for every element on the way

  const show = () => {
    zones[1].hidden = !hasQuery();
    drop.hidden = false;
  };
  const hide = () => {
    depth = 0;
    drop.hidden = true;
    zones.forEach((zone) => zone.classList.remove("is-over"));
  };

  document.addEventListener("dragenter", (event) => {
    if (!isUseful(event.dataTransfer)) return;
    event.preventDefault();
    depth += 1;
    show();
  });
  document.addEventListener("dragover", (event) => {
    if (!isUseful(event.dataTransfer)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    zones.forEach((zone) => zone.classList.toggle("is-over", zone === zoneAt(event, zones)));
  });
  document.addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) hide();
  });
  document.addEventListener("dragend", hide);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !drop.hidden) hide();
  });
  document.addEventListener("drop", (event) => {
    if (!isUseful(event.dataTransfer)) return;
    event.preventDefault();
    const how = event.target.closest?.(".box") ? "add" : (zoneAt(event, zones)?.dataset.drop ?? "replace");
    const id = event.dataTransfer.getData(DRAGGED);
    const files = [...event.dataTransfer.files];
    hide();
    if (/^\d+$/.test(id)) bring([{ id: Number(id) }], how);
    else if (files.length) bring(files.slice(0, 4).map(asPicture), how);
    else refuse("Only a picture file can be dropped here. Save the picture first, then drop the file.");
  });

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter((one) => one.type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    bring([{ file: files[0] }], "add");
  });

  document.getElementById("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    bring([...file.files].map(asPicture), "add");
    file.value = ""; // the same file may be chosen again
  });
}

function asPicture(file) {
  return { file };
}

function isUseful(transfer) {
  return transfer !== null && [...transfer.types].some((type) => ["Files", DRAGGED, "text/uri-list"].includes(type));
}

function zoneAt(event, zones) {
  return zones.find((zone) => {
    if (zone.hidden) return false;
    const box = zone.getBoundingClientRect();
    return (
      event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom
    );
  });
}
