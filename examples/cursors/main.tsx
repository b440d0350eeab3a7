import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app.tsx";
import "./main.css";

const root = document.getElementById("root");
if (!root) throw new Error("The page has no place for the board");
createRoot(root).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
