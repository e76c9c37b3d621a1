from .publish import (
    FOLDER_ATTRIBUTE as FOLDER_ATTRIBUTE,
    artifacts_folder as artifacts_folder,
    is_published as is_published,
    publish_study as publish_study,
)
from .publisher import Publisher as Publisher
