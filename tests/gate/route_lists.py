"""What MLflow's registry service and its stores offer, and what the gate does about each.

The routes are read from MLflow's own service definition; the tables say which are guarded.
"""

import mlflow
from mlflow.protos import model_registry_pb2
from mlflow.protos.databricks_pb2 import rpc
from packaging.version import Version

TAKES_LINE_BREAKS = Version(mlflow.__version__) < Version("3.18")
"""Whether ``champion\\n`` is an alias for MLflow; its stores refuse it from then on."""

SERVICE = model_registry_pb2.DESCRIPTOR.services_by_name["ModelRegistryService"]
ENDPOINTS = {
    method.name: [(e.method, e.path) for e in method.GetOptions().Extensions[rpc].endpoints]
    for method in SERVICE.methods
}
PREFIXES = ("/api/2.0", "/ajax-api/2.0")
GUARDED = {
    "setRegisteredModelAlias",
    "transitionModelVersionStage",
    "createModelVersion",
    "renameRegisteredModel",
    "setModelVersionTag",
    "deleteModelVersionTag",
    "setRegisteredModelTag",
    "deleteRegisteredModelTag",
    "createRegisteredModel",
    "getModelVersionByAlias",
    "getLatestVersions",
}
HARMLESS = {
    "updateRegisteredModel": "changes the description",
    "deleteRegisteredModel": "takes everything away",
    "getRegisteredModel": "lists",
    "searchRegisteredModels": "lists",
    "updateModelVersion": "changes the description",
    "deleteModelVersion": "takes everything away",
    "getModelVersion": "reads by number",
    "searchModelVersions": "lists",
    "getModelVersionDownloadUri": "reads by number",
    "deleteRegisteredModelAlias": "is always allowed",
}
STORE_METHODS = {
    "create_model_version",
    "create_registered_model",
    "delete_model_version_tag",
    "delete_registered_model_tag",
    "get_latest_versions",
    "get_model_version_by_alias",
    "rename_registered_model",
    "set_model_version_tag",
    "set_registered_model_alias",
    "set_registered_model_tag",
    "transition_model_version_stage",
}
STORE_METHODS_BUILT_ON_THEM = {
    "copy_model_version",
    "create_prompt",
    "create_prompt_version",
    "delete_prompt",
    "delete_prompt_alias",
    "delete_prompt_tag",
    "delete_prompt_version",
    "delete_prompt_version_tag",
    "get_prompt_version_by_alias",
    "set_prompt_alias",
    "set_prompt_tag",
    "set_prompt_version_tag",
}
STORE_METHODS_HARMLESS = {
    "create_webhook",
    "delete_model_version",
    "delete_registered_model",
    "delete_registered_model_alias",
    "delete_webhook",
    "get_model_version",
    "get_model_version_download_uri",
    "get_prompt",
    "get_prompt_version",
    "get_registered_model",
    "get_webhook",
    "link_prompt_version_to_model",
    "link_prompt_version_to_run",
    "link_prompts_to_trace",
    "list_webhooks",
    "list_webhooks_by_event",
    "search_model_versions",
    "search_prompt_versions",
    "search_prompts",
    "search_registered_models",
    "supports_workspaces",
    "test_webhook",
    "update_model_version",
    "update_registered_model",
    "update_webhook",
}
