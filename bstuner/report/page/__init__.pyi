from .page import report_page as report_page
from .parts import settings_texts as settings_texts
