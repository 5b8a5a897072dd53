"""The planner as the model registry holds it: code over safetensors and JSON, nothing pickled.

`mlflow.pyfunc.load_model("models:/diffgraph-planner@champion").predict(["a red fox at night"])`
gives one merge plan a prompt, as JSON.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class TrackedPlanner(PythonModel):  # type: ignore[misc]  # MLflow ships no types
    """Plans merges with the planner in its artifacts."""

    def load_context(self, context: PythonModelContext) -> None:
        """Remember where the planner is."""
        self.folder = context.artifacts["planner"]

    def predict(self, model_input: list[str]) -> list[str]:
        """Return a plan's JSON for every prompt."""
        from pathlib import Path

        from diffgraph.session import Session
        from diffgraph.settings import Settings

        session = Session.of(Settings(), planner=Path(self.folder))
        return [session.decide(prompt).plan.model_dump_json() for prompt in model_input]


set_model(TrackedPlanner())
