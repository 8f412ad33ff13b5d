"""The environment in which all HTML pages are rendered."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment() -> Environment:
    """Return an environment for `report/templates` that escapes text and refuses unknown names."""
    return Environment(
        loader=PackageLoader("distillers.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def template_source(environment: Environment, name: str) -> str:
    """Return the text of a file of `report/templates` that is not rendered, such as a style."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
