"""Settings of nbgrader; run its commands in this folder."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "vision"
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__"]
c.ExecutePreprocessor.timeout = 600  # seconds per cell
c.ExecutePreprocessor.interrupt_on_timeout = True
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.ClearSolutions.text_stub = "*Write your answer here.*"
