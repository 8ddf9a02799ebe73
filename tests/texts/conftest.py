from hub.fixtures import (  # noqa: F401 - fixtures
    hub,
    hub_home,
    hub_of_the_session,
    offline_visitor,
    tiny_files,
    tiny_folder,
    visitor,
)
